"""What a model gives to targets after prompts, teacher-forced: every figure of quality is made of
these.

Probabilities are the paper's: p(y) = exp(mean log-probability of y's tokens).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from memit_core.decoder import Decoder
from memit_core.errors import MemitError
from memit_core.joining import compose, goes_on
from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent
from memit_core.tokens import Row, collate, continuation_row
from memit_core.trace import run_until

BATCH_TOKENS = 1_024


@dataclass(frozen=True)
class TargetScore:
    """One target after one prompt."""

    log_p: tuple[float, ...]
    """Log-probability of each target token, in nats."""
    hits: tuple[bool, ...]
    """Whether each target token is the most probable one, those before it given."""
    ends: bool | None = None
    """Whether the word ends there: the most probable token after the target does not go on with
    it. None where it was not asked."""

    @property
    def p(self) -> float:
        """exp of the mean log-probability of the target's tokens."""
        return math.exp(sum(self.log_p) / len(self.log_p))

    @property
    def greedy(self) -> bool:
        """Whether a greedy answer starts with the target."""
        return all(self.hits)

    @property
    def exact(self) -> bool:
        """Whether a greedy answer is the target, and ends where it ends."""
        return self.greedy and self.ends is not False


@torch.no_grad()
def score_targets(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    progress: ProgressCallback = silent,
    *,
    ends: Collection[int] = (),
) -> list[TargetScore]:
    """Score (prompt, target) pairs on the weights of `model`.

    Rows of equal tokens, as of two one-token targets after one prompt, run once.

    Args:
        ends: numbers of the pairs of which it is asked whether the target's word ends.

    Raises:
        MemitError: a target is blank or tokenises to nothing.
        Cancelled: raised by `progress`.
    """
    rows = [
        continuation_row(model.tokenizer, prompt, target, ends=i in ends)
        for i, (prompt, target) in enumerate(pairs)
    ]
    wanted: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        if not (row.targets and pairs[i][1].strip()):
            raise MemitError(f"a target tokenises to nothing: {pairs[i][1]!r}")
        wanted.setdefault(row.ids, []).append(i)
    by_length = sorted(wanted, key=len)
    decoder = Decoder(model)
    scores: dict[int, TargetScore] = {}
    while by_length:
        progress("evaluate", len(scores), len(rows))
        count = max(1, BATCH_TOKENS // len(by_length[min(len(by_length), 64) - 1]))
        chunk, by_length = by_length[:count], by_length[count:]
        firsts = [rows[wanted[ids][0]] for ids in chunk]
        batch = collate(firsts, model.device)
        hidden = run_until(model, model.structure.blocks[-1], batch)
        of = [(k, i) for k, ids in enumerate(chunk) for i in wanted[ids]]
        at = [k for k, i in of for _ in _positions(rows[i])]
        positions = [p for _, i in of for p in _positions(rows[i])]
        targets = torch.tensor([t for _, i in of for t in _expected(rows[i])], device=hidden.device)
        logits = decoder.logits(hidden[at, positions]).float()
        log_p = functional.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0].tolist()
        best = logits.argmax(-1).tolist()
        start = 0
        for _, i in of:
            row = rows[i]
            end = start + len(row.targets)
            hits = tuple(b == t for b, t in zip(best[start:end], row.targets, strict=True))
            ended = _ended(model.tokenizer, pairs[i][1], row, best[end]) if row.ends else None
            scores[i] = TargetScore(tuple(log_p[start:end]), hits, ended)
            start = end + row.ends
    progress("evaluate", len(rows), len(rows))
    return [scores[i] for i in range(len(rows))]


def _positions(row: Row) -> list[int]:
    """Where the targets are predicted, and what follows them if that is asked."""
    return [*row.target_positions, *([len(row.ids) - 1] if row.ends else [])]


def _expected(row: Row) -> list[int]:
    return [*row.targets, *([0] if row.ends else [])]  # whatever follows: its score is not used


def _ended(tokenizer: Any, target: str, row: Row, following: int) -> bool:
    before = tokenizer.decode(row.targets, skip_special_tokens=True)
    after = tokenizer.decode([*row.targets, following], skip_special_tokens=True)
    return not goes_on(compose(target).rstrip(), after[len(before) :])

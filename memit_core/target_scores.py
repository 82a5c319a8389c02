"""What a model gives to targets after prompts, teacher-forced: every figure of quality is made of
these.

Probabilities are the paper's: p(y) = exp(mean log-probability of y's tokens).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from memit_core.decoder import Decoder
from memit_core.errors import MemitError
from memit_core.progress import Progress, silent
from memit_core.structure import Structure
from memit_core.tokens import collate, continuation_row, pad_id
from memit_core.trace import run_until

BATCH_TOKENS = 1_024


@dataclass(frozen=True)
class TargetScore:
    """One target after one prompt."""

    log_p: tuple[float, ...]
    """Log-probability of each target token, in nats."""
    hits: tuple[bool, ...]
    """Whether each target token is the most probable one, those before it given."""

    @property
    def p(self) -> float:
        """exp of the mean log-probability of the target's tokens."""
        return math.exp(sum(self.log_p) / len(self.log_p))

    @property
    def greedy(self) -> bool:
        """Whether a greedy answer starts with the target."""
        return all(self.hits)


@torch.no_grad()
def score_targets(
    view: Any,
    structure: Structure,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    progress: Progress = silent,
) -> list[TargetScore]:
    """Score (prompt, target) pairs on the weights of `view`.

    Rows of equal tokens, as of two one-token targets after one prompt, run once.

    Raises:
        MemitError: a target is blank or tokenises to nothing.
        Cancelled: raised by `progress`.
    """
    rows = [continuation_row(tokenizer, prompt, target) for prompt, target in pairs]
    wanted: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        if not (row.targets and pairs[i][1].strip()):
            raise MemitError(f"a target tokenises to nothing: {pairs[i][1]!r}")
        wanted.setdefault(row.ids, []).append(i)
    by_length = sorted(wanted, key=len)
    decoder = Decoder(view, structure)
    scores: dict[int, TargetScore] = {}
    while by_length:
        progress("evaluate", len(scores), len(rows))
        count = max(1, BATCH_TOKENS // len(by_length[min(len(by_length), 64) - 1]))
        chunk, by_length = by_length[:count], by_length[count:]
        firsts = [rows[wanted[ids][0]] for ids in chunk]
        batch = collate(firsts, pad_id(tokenizer), decoder.device)
        hidden = run_until(view, structure.blocks[-1], batch, {})
        of = [(k, i) for k, ids in enumerate(chunk) for i in wanted[ids]]
        at = [k for k, i in of for _ in rows[i].targets]
        positions = [p for _, i in of for p in rows[i].target_positions]
        targets = torch.tensor([t for _, i in of for t in rows[i].targets], device=hidden.device)
        logits = decoder.logits(hidden[at, positions]).float()
        log_p = functional.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0].tolist()
        hits = (logits.argmax(-1) == targets).tolist()
        start = 0
        for _, i in of:
            end = start + len(rows[i].targets)
            scores[i] = TargetScore(tuple(log_p[start:end]), tuple(hits[start:end]))
            start = end
    progress("evaluate", len(rows), len(rows))
    return [scores[i] for i in range(len(rows))]

"""How probable given targets are after given prompts, token by token: what all measures rest on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from memit_core.errors import MemitError
from memit_core.progress import Progress, silent
from memit_core.structure import Structure
from memit_core.tokens import Row, collate, continuation_row, pad_id

BATCH_ROWS = 32


@dataclass(frozen=True)
class TargetScore:
    """One prompt with one target; a value for each of the target's tokens."""

    log_p: tuple[float, ...]
    """Log-probability of each token after the prompt and the target's tokens before it, in nats."""
    hits: tuple[bool, ...]
    """Whether that token is the most probable one."""

    @property
    def p(self) -> float:
        """The paper's p(y): exp of the mean log-probability of y's tokens."""
        return math.exp(math.fsum(self.log_p) / len(self.log_p))

    @property
    def greedy(self) -> bool:
        """Whether a greedy answer to the prompt begins with the target."""
        return all(self.hits)


def score_targets(
    view: Any,
    structure: Structure,
    tokenizer: Any,
    questions: Sequence[tuple[str, str]],
    progress: Progress = silent,
) -> list[TargetScore]:
    """Score each (prompt, target) on the weights of `view`, in the order given.

    Questions that come to the same tokens before the last one of the target share one row of one
    forward, as do most targets of one token; rows of like length share a batch.

    Raises:
        MemitError: a target is blank or tokenises to nothing.
        Cancelled: raised by `progress`.
    """
    rows = [continuation_row(tokenizer, prompt, target) for prompt, target in questions]
    asked: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if not (row.targets and questions[i][1].strip()):
            raise MemitError(f"a target tokenises to nothing: {questions[i][1]!r}")
        asked[row.ids].append(i)
    sequences = sorted(asked, key=len)
    found: dict[int, TargetScore] = {}
    for start in range(0, len(sequences), BATCH_ROWS):
        progress("evaluate", start, len(sequences))
        chunk = [[rows[i] for i in asked[ids]] for ids in sequences[start : start + BATCH_ROWS]]
        scores = _score(view, structure, pad_id(tokenizer), chunk)
        indices = [i for ids in sequences[start : start + BATCH_ROWS] for i in asked[ids]]
        found.update(zip(indices, scores, strict=True))
    progress("evaluate", len(sequences), len(sequences))
    return [found[i] for i in range(len(rows))]


@torch.no_grad()
def _score(
    view: Any, structure: Structure, pad: int, chunk: Sequence[Sequence[Row]]
) -> list[TargetScore]:
    """Scores of all rows of `chunk`, in order; the rows of one entry have the same ids."""
    device = next(view.parameters()).device
    batch = collate([same[0] for same in chunk], pad, device)
    hidden = view.base_model(**batch.inputs(), use_cache=False)[0]
    rows = [(i, row) for i, same in enumerate(chunk) for row in same]
    index = [i for i, row in rows for _ in row.targets]
    position = [p for _, row in rows for p in row.target_positions]
    targets = torch.tensor([t for _, row in rows for t in row.targets], device=device)
    logits = view.get_submodule(structure.head)(hidden[index, position]).float()
    log_p = functional.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0].tolist()
    hits = (logits.argmax(-1) == targets).tolist()
    scores, at = [], 0
    for _, row in rows:
        end = at + len(row.targets)
        scores.append(TargetScore(tuple(log_p[at:end]), tuple(hits[at:end])))
        at = end
    return scores

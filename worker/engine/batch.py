"""The padded batch: keys and values of rows that join and leave between steps.

Rows are padded on the left to one width. A padding column is masked and takes no position, so what
a row computes does not depend on how much padding it has. The cache keeps every layer's whole past:
sliding windows are in the attention mask that the model makes itself, and a cache cut to the window
would lose columns that a row with more padding still needs. Memory is bounded by rows times the
longest row, that is by `max_batch` times `max_context`, and some room for more of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from worker.engine.key_values import KeyValues
from worker.engine.prefixes import Hit, States
from worker.engine.versioned import ServingView


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Token ids and mask [B, width], int64, of rows of different length; padding has id 0."""
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return tokens, mask


class KeyValueBatch:
    """Keys and values of B rows in W columns, and the mask [B, W] of what is not padding."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._kept = KeyValues(size)
        self.mask = torch.empty((size, 0), dtype=torch.int64, device=device)

    @property
    def rows(self) -> int:
        return self.mask.shape[0]

    @property
    def width(self) -> int:
        return self.mask.shape[1]

    def forward(
        self, view: ServingView, rows: Sequence[str], tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Append the columns `tokens` [B, T] with their `mask` [B, T]; logits [B, vocabulary].

        After an exception the batch is unusable: some layers have the new columns, others not.
        """
        self._kept.reserve(tokens.shape[1])
        wider = torch.cat([self.mask, mask], dim=1)
        logits = view.logits(rows, tokens, wider, self._kept.cache)
        self._kept.appended(tokens.shape[1])
        self.mask = wider
        return logits

    def begin(self, hits: Sequence[Hit | None], mask: torch.Tensor) -> None:
        """Take what was computed before of rows whose whole mask is `mask`, as far as all have it.

        Args:
            hits: of every row, the first tokens that are known; nothing of any is needed again.
            mask: [B, width of the prompts].
        """
        lengths = mask.sum(1).tolist()
        known = [hit.tokens if hit else 0 for hit in hits]
        rest = max(length - tokens for length, tokens in zip(lengths, known, strict=True))
        width = mask.shape[1] - rest
        if width > 0:
            self._kept.begin(hits, [mask.shape[1] - length for length in lengths], width)
            self.mask = mask[:, :width]

    def states(self, row: int, tokens: int) -> States:
        """Keys and values of a row's last columns; a copy."""
        return self._kept.states(row, tokens)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keep these rows only, and cut columns that are padding in all of them.

        Returns:
            The rows in the order in which they stand now: the last ones take the places that
            others leave, so that few move.
        """
        stay = set(rows)
        last = sorted(stay, reverse=True)
        order = [row if row in stay else last.pop(0) for row in range(len(stay))]
        self._kept.leave(order)
        self.mask = self.mask[order]
        start = int(self.mask.any(0).int().argmax())
        self.mask = self.mask[:, start:]
        self._kept.drop_columns(start)
        return order

    def join(self, other: KeyValueBatch, rows: Sequence[int]) -> None:
        """Append these rows of `other`, both padded on the left to the wider of the two.

        Args:
            rows: a row may be named more than once.
        """
        if not self.rows and list(rows) == list(range(other.rows)):
            self._kept, self.mask = other._kept, other.mask
            return
        self._kept.join(other._kept, rows)
        width = max(self.width, other.width)
        both = (self.mask, other.mask[list(rows)])
        self.mask = torch.cat([pad(mask, (width - mask.shape[1], 0)) for mask in both])

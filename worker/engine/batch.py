"""The padded batch: keys and values of rows that join and leave between steps.

Rows are padded on the left to one width. A padding column is masked and takes no position, so what
a row computes does not depend on how much padding it has. The cache keeps every layer's whole past
(`DynamicCache()` without a config): sliding windows are in the attention mask that the model makes
itself, and a cache cut to the window would lose columns that a row with more padding still needs.
Memory is bounded by rows times the longest row, that is by `max_batch` times `max_context`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from memit_core.transformers_internals import (
    DynamicCache,
    keys_and_values,
    replace_keys_and_values,
)
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
        self.cache = DynamicCache()
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
        self.mask = torch.cat([self.mask, mask], dim=1)
        return view.logits(rows, tokens, self.mask, self.cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order, and cut columns that are padding in all of them.

        A row may be named more than once.
        """
        chosen = torch.tensor(rows, dtype=torch.int64, device=self.mask.device)
        mask = self.mask.index_select(0, chosen)
        start = int(mask.any(0).int().argmax())
        self.mask = mask[:, start:]

        def kept(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.index_select(0, chosen)[:, :, start:]

        pairs = ((kept(keys), kept(values)) for keys, values in keys_and_values(self.cache))
        replace_keys_and_values(self.cache, pairs)

    def join(self, other: KeyValueBatch) -> None:
        """Append the rows of `other`, both padded on the left to the wider of the two."""
        if self.mask.shape[0] == 0:
            self.cache, self.mask = other.cache, other.mask
            return
        width = max(self.width, other.width)
        pairs = zip(keys_and_values(self.cache), keys_and_values(other.cache), strict=True)
        # All new tensors first: if memory runs out, this batch is still whole.
        joined = [
            (_stack(keys, new_keys, width), _stack(values, new_values, width))
            for (keys, values), (new_keys, new_values) in pairs
        ]
        masks = (pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask, other.mask))
        self.mask = torch.cat(list(masks))
        replace_keys_and_values(self.cache, joined)


def _stack(first: torch.Tensor, second: torch.Tensor, width: int) -> torch.Tensor:
    """Two tensors [rows, heads, columns, size] under each other, padded on the left to `width`."""
    both = (pad(tensor, (0, 0, width - tensor.shape[2], 0)) for tensor in (first, second))
    return torch.cat(list(both))

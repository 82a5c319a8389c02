"""Keys and values of the tokens before those that run: constants, read and never appended to.

One row stands for any number of equal ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from memit_core.transformers_internals import Cache, DynamicLayer, KeysValues


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One block's past; what the block then attends to is kept in `attended`."""

    def __init__(self, width: int, before: KeysValues | None) -> None:
        super().__init__()
        self.width = width
        self.before = before
        self.attended: KeysValues | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> KeysValues:
        """Past and new tokens together, along the width."""
        if self.before is not None:
            old_keys, old_values = (
                old.to(keys.dtype).expand(keys.shape[0], -1, -1, -1) for old in self.before
            )
            keys = torch.cat([old_keys, keys], dim=2)
            values = torch.cat([old_values, values], dim=2)
        if not keys.requires_grad:
            self.attended = (keys, values)
        return keys, values

    def get_seq_length(self) -> int:
        return self.width


class Past(Cache):  # type: ignore[misc]
    """What some tokens have before them, in every block of a decoder.

    Args:
        depth: number of blocks.
        width: tokens before, the same for all rows (shorter pasts are padded on the left).
        by_block: keys and values of the blocks that will run; needed where `width` is not 0.
    """

    def __init__(
        self, depth: int, width: int = 0, by_block: Mapping[int, KeysValues] | None = None
    ) -> None:
        self.width = width
        known = by_block if by_block and width else {}
        super().__init__(layers=[_Layer(width, known.get(i)) for i in range(depth)])

    def attended(self, block: int) -> KeysValues:
        """Keys and values that a block attended to when it last ran: past and new tokens."""
        found: KeysValues | None = self.layers[block].attended
        if found is None:
            raise RuntimeError(f"block {block} has not run")
        return found

    def forget(self, block: int) -> None:
        """Let go of what `attended` keeps of a block."""
        self.layers[block].attended = None

    def fill(self, block: int, before: KeysValues) -> None:
        """Say what `block` has before the new tokens, for a past that is made on the way up."""
        self.layers[block].before = before

    def select(self, rows: torch.Tensor) -> Past:
        """The past of some of the rows."""
        befores = ((block, layer.before) for block, layer in enumerate(self.layers))
        kept = {block: (kv[0][rows], kv[1][rows]) for block, kv in befores if kv is not None}
        return Past(len(self.layers), self.width, kept)

"""Where things are in a decoder: the blocks, and the matrix of each that MEMIT edits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from memit_core.carry import Carry


@dataclass(frozen=True)
class Structure:
    """A decoder's layout; all paths are for `model.get_submodule`."""

    blocks: tuple[str, ...]
    projections: tuple[str, ...]
    """The MLP output projection of each block: the matrix that MEMIT edits."""
    transposed: bool
    """True for Conv1D: its weight is [intermediate, hidden]; a Linear's is the other way round."""
    returns_tuple: bool
    """Whether a block returns a tuple that begins with the hidden states, or these alone."""
    hidden: int
    intermediate: int
    carry: Carry = field(default_factory=Carry)
    """How what a projection gives reaches the residual stream."""

    def block_of(self, path: str) -> int:
        """Number of the block that the module at `path` lies in.

        Raises:
            ValueError: it lies in none.
        """
        for number, block in enumerate(self.blocks):
            if path.startswith(f"{block}."):
                return number
        raise ValueError(f"{path} lies in no block")


def first_tensor(output: Any) -> torch.Tensor:
    """The hidden states of a block's output, which is a tensor or a tuple that begins with one."""
    return output if isinstance(output, torch.Tensor) else output[0]

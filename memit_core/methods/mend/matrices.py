"""Which matrices MEND changes: every linear map of the MLP, in the last three blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from memit_core.errors import UnsupportedModel
from memit_core.loading import LoadedModel
from memit_core.transformers_internals import Conv1D

BLOCKS = 3
"""Counted from the last one, as published."""


@dataclass(frozen=True)
class Shape:
    """What a matrix maps to what: widths of x and of g."""

    inputs: int
    outputs: int

    @property
    def width(self) -> int:
        """Of [x; g]."""
        return self.inputs + self.outputs


def first_block(loaded: LoadedModel) -> int:
    """Number of the lowest block that is changed."""
    return max(0, len(loaded.structure.blocks) - BLOCKS)


def mlp_matrices(loaded: LoadedModel) -> dict[str, Shape]:
    """The matrices by module path, the lowest block first: up, gate where there is one, and down.

    They are the linear maps beside the block's output projection, without those of attention.

    Raises:
        UnsupportedModel: one lies the other way round than the output projections.
    """
    structure, found = loaded.structure, dict[str, Shape]()
    for projection in structure.projections[first_block(loaded) :]:
        parent = projection.rpartition(".")[0]
        for name, module in loaded.model.get_submodule(parent).named_modules():
            if isinstance(module, (nn.Linear, Conv1D)) and not _of_attention(name):
                path = f"{parent}.{name}"
                if isinstance(module, Conv1D) != structure.transposed:
                    raise UnsupportedModel(f"{loaded.name}: {path} is no matrix like {projection}")
                rows, columns = module.weight.shape
                found[path] = Shape(*((rows, columns) if structure.transposed else (columns, rows)))
    return found


def _of_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.split("."))

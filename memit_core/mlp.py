"""The matrices of a block's MLP: up, gate where there is one, and down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from memit_core.structure import Structure
from memit_core.transformers_internals import Conv1D


@dataclass(frozen=True)
class Shape:
    """Widths of what a matrix reads and of what it gives."""

    inputs: int
    outputs: int

    @property
    def width(self) -> int:
        """Of both side by side."""
        return self.inputs + self.outputs


def mlp_matrices(model: Any, structure: Structure, first: int = 0) -> dict[str, Shape]:
    """Every linear map of the MLPs from block `first` on, by module path, the lowest block first.

    They are those beside a block's output projection and laid out as it is, without attention's.
    """
    found: dict[str, Shape] = {}
    for projection in structure.projections[first:]:
        parent = projection.rpartition(".")[0]
        for name, module in model.get_submodule(parent).named_modules():
            kind = Conv1D if structure.transposed else nn.Linear
            if isinstance(module, kind) and not _of_attention(name):
                rows, columns = module.weight.shape
                shape = (rows, columns) if structure.transposed else (columns, rows)
                found[f"{parent}.{name}"] = Shape(*shape)
    return found


def _of_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.split("."))

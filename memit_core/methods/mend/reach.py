"""How far MEND reaches: every matrix of the MLP, in the last three blocks."""

from __future__ import annotations

from memit_core.loading import LoadedModel
from memit_core.mlp import Shape, mlp_matrices

BLOCKS = 3
"""As published."""


def first_block(loaded: LoadedModel) -> int:
    """Number of the lowest block that is changed."""
    return max(0, len(loaded.structure.blocks) - BLOCKS)


def changed_matrices(loaded: LoadedModel) -> dict[str, Shape]:
    """The matrices by module path, the lowest block first."""
    return mlp_matrices(loaded.model, loaded.structure, first_block(loaded))

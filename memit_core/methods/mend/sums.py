"""Sums of rank-one changes of a matrix."""

from __future__ import annotations

import torch

from memit_core.errors import NonFinite
from memit_core.mlp import Shape
from memit_core.weights import Delta, Dense, smallest


class RankOnes:
    """Σ left rightᵀ of one matrix: as factors while these are smaller than the matrix."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._lefts: list[torch.Tensor] = []
        self._rights: list[torch.Tensor] = []
        self._dense: torch.Tensor | None = None

    def add(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Add left [outputs, n] times right [inputs, n] transposed."""
        if self._dense is not None:
            self._dense += left @ right.T
            return
        self._lefts.append(left)
        self._rights.append(right)
        rank = sum(one.shape[1] for one in self._lefts)
        if rank * self._shape.width >= self._shape.inputs * self._shape.outputs:
            self._dense = torch.cat(self._lefts, dim=1) @ torch.cat(self._rights, dim=1).T
            self._lefts, self._rights = [], []

    def delta(self) -> Delta:
        """The sum, float32 on the CPU.

        Raises:
            NonFinite: it holds NaN or infinity.
        """
        if self._dense is not None:
            if not self._dense.isfinite().all():
                raise NonFinite("the weight update")
            return Dense(self._dense.float().cpu().contiguous())
        return smallest(torch.cat(self._lefts, dim=1), torch.cat(self._rights, dim=1))

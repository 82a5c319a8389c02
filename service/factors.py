"""A stored change of a matrix as the two factors of an adapter, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from contracts.exports import LOSSLESS

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Tensors = dict[str, Floats]
LOW_RANK, DENSE = {"left", "right"}, {"delta"}


def decode(data: bytes) -> Tensors:
    """The tensors of a change: `left` [d, r] and `right` [m, r], or `delta` [d, m]; float32.

    Raises:
        ValueError: the bytes hold no change.
    """
    try:
        tensors = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise ValueError(f"not a change of a matrix: {error}") from error
    if set(tensors) not in (LOW_RANK, DENSE):
        raise ValueError(f"not a change of a matrix: holds {sorted(tensors)}")
    return tensors


def shape_of(tensors: Tensors) -> tuple[int, int]:
    """d and m of the changed matrix."""
    if "delta" in tensors:
        return tensors["delta"].shape[0], tensors["delta"].shape[1]
    return tensors["left"].shape[0], tensors["right"].shape[0]


def matrix(tensors: Tensors) -> Doubles:
    """ΔW [d, m], float64."""
    if "delta" in tensors:
        return tensors["delta"].astype(np.float64)
    left, right = (tensors[name].astype(np.float64) for name in ("left", "right"))
    product: Doubles = left @ right.T
    return product


@dataclass(frozen=True)
class Basis:
    """The directions that a change is written in, of its shorter side, the strongest first."""

    vectors: Doubles
    """[min(d, m), rank], orthonormal."""
    of_rows: bool
    """Whether they span the columns of ΔW (d ≤ m), or its rows."""
    error: float
    """‖ΔW - what is left of it‖ / ‖ΔW‖, Frobenius norms."""

    @property
    def rank(self) -> int:
        return int(self.vectors.shape[1])


def basis_of(tensors: Tensors, max_rank: int) -> Basis | None:
    """The smallest basis that loses nothing but rounding, or one of `max_rank` that loses more.

    None for a change that is stored as factors of no larger rank: these are exact.
    """
    if "left" in tensors and tensors["left"].shape[1] <= max_rank:
        return None
    delta = matrix(tensors)
    of_rows = delta.shape[0] <= delta.shape[1]
    gram = delta @ delta.T if of_rows else delta.T @ delta
    energies, vectors = np.linalg.eigh(gram)  # rising
    total = float(np.trace(gram))
    lost = np.concatenate([[0.0], np.cumsum(np.clip(energies, 0, None))])
    """By how many of the weakest directions are left out."""
    spared = int(np.searchsorted(lost, LOSSLESS**2 * total, side="right")) - 1
    rank = min(max(len(energies) - spared, 1), max_rank)
    left_out = len(energies) - rank
    error = float(np.sqrt(lost[left_out] / total)) if total > 0 else 0.0
    return Basis(np.ascontiguousarray(vectors[:, left_out:][:, ::-1]), of_rows, error)


def factors(tensors: Tensors, basis: Basis | None, rank: int) -> tuple[Floats, Floats]:
    """B [d, rank] and A [rank, m] with ΔW = B A, float32, padded with zeros.

    Args:
        basis: as `basis_of` gives it for the same change.
        rank: at least that of the basis, or of the stored factors.
    """
    d, m = shape_of(tensors)
    left: NDArray[Any]
    right: NDArray[Any]
    if basis is None:
        left, right = tensors["left"], tensors["right"]
    elif basis.of_rows:
        left, right = basis.vectors, matrix(tensors).T @ basis.vectors
    else:
        left, right = matrix(tensors) @ basis.vectors, basis.vectors
    b, a = np.zeros((d, rank), np.float32), np.zeros((rank, m), np.float32)
    b[:, : left.shape[1]] = left
    a[: right.shape[1]] = right.T
    return b, a

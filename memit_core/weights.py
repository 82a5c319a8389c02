"""The change of one matrix: as low-rank factors or dense, as safetensors bytes, and as weights.

Editor and serving replicas build weights by `served_weight` alone, from the same stored bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError

from memit_core.errors import NonFinite


@dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW = left @ right.T: residuals `left` [d, r], solved keys `right` [m, r]; float32, CPU."""

    left: torch.Tensor
    right: torch.Tensor

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def __eq__(self, other: object) -> bool:
        """Bit for bit."""
        return (
            isinstance(other, LowRank)
            and torch.equal(self.left, other.left)
            and torch.equal(self.right, other.right)
        )

    __hash__ = None  # type: ignore[assignment]

    def matrix(self, device: torch.device) -> torch.Tensor:
        """ΔW [d, m], float32."""
        return self.left.to(device) @ self.right.to(device).T


@dataclass(frozen=True, eq=False)
class Dense:
    """ΔW itself, `delta` [d, m]; float32, CPU."""

    delta: torch.Tensor

    @property
    def rank(self) -> int:
        return min(self.delta.shape)

    def __eq__(self, other: object) -> bool:
        """Bit for bit."""
        return isinstance(other, Dense) and torch.equal(self.delta, other.delta)

    __hash__ = None  # type: ignore[assignment]

    def matrix(self, device: torch.device) -> torch.Tensor:
        """ΔW [d, m], float32."""
        return self.delta.to(device)


Delta = LowRank | Dense
Solved = Mapping[str, Delta]
"""The changes that write some facts, by the path of the edited module."""


def smallest(left: torch.Tensor, right: torch.Tensor) -> Delta:
    """Factors [d, r] and [m, r] as they are while that is smaller than dense, else their product.

    Raises:
        NonFinite: a factor holds NaN or infinity.
    """
    left, right = left.float().cpu().contiguous(), right.float().cpu().contiguous()
    if not (left.isfinite().all() and right.isfinite().all()):
        raise NonFinite("the weight update")
    d, m, r = left.shape[0], right.shape[0], left.shape[1]
    return LowRank(left, right) if r * (d + m) < d * m else Dense(left @ right.T)


def summed(first: Delta | None, second: Delta) -> Delta:
    """Both changes of one matrix together; of two in factors, in factors while that is smaller."""
    if first is None:
        return second
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        left = torch.cat([first.left, second.left], dim=1)
        return smallest(left, torch.cat([first.right, second.right], dim=1))
    here = torch.device("cpu")
    return Dense(first.matrix(here) + second.matrix(here))


def encode_delta(delta: Delta) -> bytes:
    """The delta as a safetensors file."""
    if isinstance(delta, LowRank):
        return safetensors.torch.save({"left": delta.left, "right": delta.right})
    return safetensors.torch.save({"delta": delta.delta})


def decode_delta(data: bytes) -> Delta:
    """Read what `encode_delta` wrote.

    Raises:
        ValueError: the file does not hold a delta.
    """
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(f"not a delta: {error}") from error
    if set(tensors) == {"left", "right"}:
        return LowRank(tensors["left"], tensors["right"])
    if set(tensors) == {"delta"}:
        return Dense(tensors["delta"])
    raise ValueError(f"not a delta: holds {sorted(tensors)}")


def served_weight(base: torch.Tensor, delta: Delta, transposed: bool) -> torch.Tensor:
    """cast(base in float32 + ΔW), in the layout, dtype and device of `base`.

    Args:
        base: the base model's weight, [d, m], or [m, d] if `transposed` (Conv1D).
    """
    change = delta.matrix(base.device)
    return (base.float() + (change.T if transposed else change)).to(base.dtype).contiguous()

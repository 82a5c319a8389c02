"""Weights in the blocks that oneDNN's kernels read, kept as long as the weights are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

TOKENS = 16
"""That a packed layout is made for; it serves any number as well."""


class Joined:
    """Weights [outputs, inputs] of linear maps that read one input, as one weight below another."""

    def __init__(
        self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
    ) -> None:
        self.weights, self._biases = list(weights), list(biases)
        self.sizes = [len(weight) for weight in weights]
        """Outputs of each."""

    def has(self, place: int, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
        """Whether these are still the weight and the bias of the map at this place."""
        return weight is self.weights[place] and bias is self._biases[place]

    def bias(self) -> torch.Tensor | None:
        """[outputs of all]."""
        given = [bias for bias in self._biases if bias is not None]
        return torch.cat(given) if given else None


Weight = torch.Tensor | Joined


class _Layout:
    """A packed weight, and what the weight was then."""

    def __init__(self, stamp: Any, packed: torch.Tensor | None) -> None:
        self.stamp, self.packed = stamp, packed

    def __reduce__(self) -> Any:
        # A weight that is pickled takes no layout along: it cannot be, and is made anew.
        return _Layout, (None, None)


def layout_of(weight: Weight, *, transposed: bool) -> torch.Tensor:
    """The layout of a weight, or of its transpose; made anew when the weight has been changed."""
    name = "packed_transpose" if transposed else "packed"
    if isinstance(weight, Joined):
        # Kept at a weight, which all views of a model share.
        keeper, name = weight.weights[0], f"{name}_joined"
        stamp: Any = [_stamp(one) for one in weight.weights]
    else:
        keeper, stamp = weight, _stamp(weight)
    kept: _Layout | None = getattr(keeper, name, None)
    if kept is not None and kept.packed is not None and kept.stamp == stamp:
        return kept.packed
    whole = torch.cat(weight.weights) if isinstance(weight, Joined) else weight
    source = whole.detach().T if transposed else whole.detach()
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(source.contiguous(), TOKENS)
    setattr(keeper, name, _Layout(stamp, packed))
    return packed


def _stamp(weight: torch.Tensor) -> tuple[int, int | None]:
    """What differs once it has been changed or replaced."""
    return weight.data_ptr(), None if weight.is_inference() else weight._version

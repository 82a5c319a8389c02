"""Linear maps that read the same input, run as one packed product.

A block's queries, keys and values are made of one tensor, and so are its gate and what that lets
through. One product starts and ends its threads once, where three would do it thrice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from memit_core.packed import PackedLinear, parameters_of, product, runs_packed
from memit_core.packed_layout import Joined

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of such maps within one module, as transformers' models have them."""


def join(model: nn.Module) -> None:
    """Let such maps of a packed model run as one."""
    for module in model.modules():
        for names in SIBLINGS:
            maps: list[Any] = [getattr(module, name, None) for name in names]
            if all(type(one) is PackedLinear for one in maps) and _alike(maps):
                joined = Joined([one.weight for one in maps], [one.bias for one in maps])
                for place, one in enumerate(maps):
                    one.__class__ = JoinedLinear
                    one.joined, one.place = joined, place


def _alike(maps: list[Any]) -> bool:
    """Of as many inputs, and all with a bias or none."""
    return len({(one.in_features, one.bias is None) for one in maps}) == 1


class JoinedLinear(PackedLinear):
    """One of them. Whichever is asked first computes for all, and leaves the others' outputs at
    their input. One whose weight or bias has been replaced runs alone."""

    joined: Joined
    place: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., inputs] → [..., outputs]."""
        weight, bias = parameters_of(self)
        joined, place = self.joined, self.place
        if not joined.has(place, weight, bias) or not runs_packed(x, weight, bias):
            return super().forward(x)
        left: _Left | None = getattr(x, "left_by_joined", None)
        found = None if left is None or left.joined is not joined else left.take(place, x)
        if found is not None:
            return found
        whole = product(x, joined, joined.bias(), transposed=False)
        outputs = whole.split_with_sizes(joined.sizes, dim=-1)
        others = [None if at == place else one for at, one in enumerate(outputs)]
        x.left_by_joined = _Left(joined, others)  # type: ignore[attr-defined]
        return outputs[place]


class _Left:
    """What one has computed for the others; each takes its own once."""

    def __init__(self, joined: Joined, outputs: list[torch.Tensor | None]) -> None:
        self.joined = joined
        self._outputs = outputs

    def take(self, place: int, x: torch.Tensor) -> torch.Tensor | None:
        """Its output, if it is there, with gradients if it is to have them."""
        found, self._outputs[place] = self._outputs[place], None
        with_gradients = torch.is_grad_enabled() and x.requires_grad
        return found if found is not None and found.requires_grad == with_gradients else None

"""Views: a second module tree over the very same tensors, in which single weights are replaced.

A view costs a few milliseconds and no weight memory. Hooks set on it do not fire on its source,
and a weight replaced in it is not replaced in its source.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def view_of(model: Any) -> Any:
    """A deep copy of the module tree that shares every parameter and buffer with `model`."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, memo={id(tensor): tensor for tensor in tensors})


def set_weight(view: Any, path: str, weight: torch.Tensor) -> None:
    """Give the module at `path` of a view its own `weight`, same shape and dtype as before."""
    module = view.get_submodule(path)
    old = module.weight
    if weight.shape != old.shape or weight.dtype != old.dtype:
        raise ValueError(
            f"{path}: weight is {tuple(weight.shape)} {weight.dtype}, "
            f"expected {tuple(old.shape)} {old.dtype}"
        )
    module.weight = nn.Parameter(weight, requires_grad=False)

"""Views: a second module tree over the very same tensors, in which single weights are replaced.

A view costs a few milliseconds and no weight memory. Hooks set on it do not fire on its source,
and a weight replaced in it is not replaced in its source.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from memit_core.joined import JoinedLinear


def view_of(model: Any) -> Any:
    """A deep copy of the module tree that shares every parameter and buffer with `model`."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    # A map alone takes no copies of those along that it may run as one with.
    memo |= {id(one.joined): one.joined for one in model.modules() if isinstance(one, JoinedLinear)}
    return copy.deepcopy(model, memo=memo)


def cast_view(
    model: Any, dtype: torch.dtype, *, except_for: Sequence[str] = (), cast: Any = None
) -> Any:
    """A view whose parameters are copies in `dtype`; those of the modules named stay shared.

    Buffers stay as they are: rotary frequencies need their precision.

    Args:
        cast: another such view, of a model that differs from this one at most in weights that the
            view holds in another dtype; those that it holds in `dtype` are taken instead of copied.
    """
    shared = {id(t) for path in except_for for t in model.get_submodule(path).parameters()}
    known = {} if cast is None else dict(cast.named_parameters())
    memo: dict[int, torch.Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for name, tensor in model.named_parameters():
        if id(tensor) in shared or tensor.dtype == dtype:
            memo[id(tensor)] = tensor
        elif name in known and known[name].dtype == dtype:
            memo[id(tensor)] = known[name]
        else:
            memo[id(tensor)] = nn.Parameter(tensor.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(model, memo=memo)


def set_weight(view: Any, path: str, weight: torch.Tensor) -> None:
    """Give the module at `path` of a view its own `weight`, same shape and dtype as before."""
    module = view.get_submodule(path)
    old = module.weight
    if weight.shape != old.shape or weight.dtype != old.dtype:
        raise ValueError(
            f"{path}: weight is {tuple(weight.shape)} {weight.dtype}, "
            f"expected {tuple(old.shape)} {old.dtype}"
        )
    frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
    module.weight = weight if frozen else nn.Parameter(weight, requires_grad=False)

"""Linear maps whose weight also lies in memory as the kernels of a CPU read it.

torch multiplies a float32 matrix on a CPU straight from its rows. oneDNN's kernels have it packed
in blocks, which takes half the time or less: of a step of a few tokens, where reading the weights
counts, and of many. torch packs weights itself only where it compiles a model. Here each weight is
packed when it is first used, and its packed copy lives as long as it does, so that all views of a
model share one. It costs the memory of the weights once more, and twice where gradients are taken.
"""

from __future__ import annotations

import logging
import platform
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from memit_core.memory import total_memory
from memit_core.packed_layout import Weight, layout_of
from memit_core.transformers_internals import Conv1D

DTYPES = (torch.float32, torch.bfloat16)
MACHINES = ("x86_64", "AMD64")
MEMORY_FACTOR = 4
"""Of the weights' bytes: less memory for this process, and they are not packed."""
MOST_ROWS = 512
"""That are multiplied at once."""
MULTIPLES = ((16, 1), (64, 4), (128, 16), (MOST_ROWS, 32))
"""What rows are padded to a multiple of, by how many there are at most. oneDNN makes and keeps a
kernel for every number of rows of every shape of weight, of half a megabyte and more; if every
prompt had its own, they would come to gigabytes."""
ABOUT = 1e-3
"""Of a trial, relative."""

logger = logging.getLogger(__name__)


def pack(model: nn.Module) -> bool:
    """Let the linear maps of a frozen model run from packed weights, where that can be done.

    Returns:
        Whether they do. It depends on the machine and the model alone.
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    first = next(model.parameters())
    if first.device.type != "cpu" or not _can_pack(first.dtype):
        return False
    if MEMORY_FACTOR * size > total_memory():
        logger.info("weights are not packed: they take %.1f GB", size / 1e9)
        return False
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = PackedLinear
        elif type(module) is Conv1D:
            module.__class__ = PackedConv1D
    return True


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether torch has the kernels for this processor, and they multiply."""
    if platform.machine() not in MACHINES or dtype not in DTYPES:
        return False
    weight, x = (torch.linspace(-1, 1, 32 * n).view(n, 32).sin().to(dtype) for n in (64, 3))
    try:
        found = _multiply(x, layout_of(weight, transposed=False), None)
    except (RuntimeError, AttributeError) as error:
        logger.info("weights in %s are not packed: %s", dtype, str(error).partition("\n")[0])
        return False
    expected = x.double() @ weight.double().T
    wrong = float((found.double() - expected).norm() / expected.norm())
    return wrong < (ABOUT if dtype is torch.float32 else 10 * ABOUT)


class PackedLinear(nn.Linear):
    """A Linear; where gradients of its weight are asked for, it runs as any other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., inputs] → [..., outputs]."""
        weight, bias = parameters_of(self)
        if runs_packed(x, weight, bias):
            return product(x, weight, bias, transposed=False)
        return functional.linear(x, weight, bias)


class PackedConv1D(Conv1D):  # type: ignore[misc]
    """GPT-2's linear map, whose weight is [inputs, outputs]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., inputs] → [..., outputs]."""
        weight, bias = parameters_of(self)
        if runs_packed(x, weight, bias):
            return product(x, weight, bias, transposed=True)
        plain: torch.Tensor = super().forward(x)
        return plain


def parameters_of(linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias. Not as attributes, which Python looks for elsewhere first: a decode step
    asks hundreds of times."""
    found: Any = linear._parameters
    return found["weight"], found["bias"]


def runs_packed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether a map of this weight does, for this input."""
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return False
    fits = x.dtype is weight.dtype and x.is_cpu and _can_pack(x.dtype)
    return fits and x.dim() > 1 and x.numel() > 0


def product(
    x: torch.Tensor, weight: Weight, bias: torch.Tensor | None, *, transposed: bool
) -> torch.Tensor:
    """x Wᵀ + b, or x W + b where `transposed`; gradients reach x."""
    if torch.is_grad_enabled() and x.requires_grad:
        found: torch.Tensor = _Product.apply(x, weight, bias, transposed)  # type: ignore[no-untyped-call]
        return found
    return _multiply(x, layout_of(weight, transposed=transposed), bias)


class _Product(torch.autograd.Function):
    """`product`, for x alone to have gradients, of any order."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None, transposed: bool
    ) -> torch.Tensor:
        ctx.weight, ctx.transposed = weight, transposed
        return _multiply(x, layout_of(weight, transposed=transposed), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        of_x = product(gradient, ctx.weight, None, transposed=not ctx.transposed)
        return of_x, None, None, None


def _multiply(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = x.shape[:-1].numel()
    if rows <= MOST_ROWS and not _missing(rows):
        return _run(x, packed, bias)
    found = [
        _run(functional.pad(piece, (0, 0, 0, _missing(len(piece)))), packed, bias)
        for piece in torch.split(x.reshape(rows, -1), MOST_ROWS)
    ]
    out = found[0] if len(found) == 1 else torch.cat(found)
    return out[:rows].view(*x.shape[:-1], -1)


def _missing(rows: int) -> int:
    """Rows of padding, up to a number that kernels are made for."""
    return -rows % next(multiple for most, multiple in MULTIPLES if rows <= most)


def _run(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = _kernel()(x, packed, bias, "none", [], "")
    return out


@cache
def _kernel() -> Any:
    return torch.ops.mkldnn._linear_pointwise.default

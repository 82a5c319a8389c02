"""Find how a block carries its projection's output to the residual stream: by moving it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn

from memit_core.carry import Carry
from memit_core.errors import UnsupportedModel
from memit_core.structure import first_tensor
from memit_core.views import cast_view

SHIFT = 0.5
"""Of the output's own size: a norm is then no linear map any more."""
CLOSE = 1e-3
"""Relative to the shift that arrives, at most tokens: the first may be a sink with huge states."""
DIGITS = 4
"""Of a scale, so that every machine finds the same."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


@torch.no_grad()
def find_carry(
    model: Any, blocks: Sequence[str], projections: Sequence[str], calls: Mapping[str, Call]
) -> Carry:
    """How all blocks of a decoder carry what their projections give.

    Args:
        model: the pristine model; views of its blocks run.
        calls: by block, the arguments it was called with in one forward.

    Raises:
        UnsupportedModel: a change of a projection's output arrives in some other way, or not in
            all blocks in the same.
    """
    found = [
        _of_block(model.get_submodule(block), projection.removeprefix(f"{block}."), calls[block])
        for block, projection in zip(blocks, projections, strict=True)
    ]
    name = type(model).__name__
    for block, one in zip(blocks, found, strict=True):
        if one is None:
            raise UnsupportedModel(
                f"{name}: what {block}'s MLP output projection gives reaches the residual stream "
                "neither as it is, nor scaled, nor through a norm of its own"
            )
    scales = [one for one in found if isinstance(one, float)]
    if scales and (len(scales) < len(found) or max(scales) - min(scales) > CLOSE * max(scales)):
        raise UnsupportedModel(
            f"{name}: its blocks carry their MLP's output to the residual stream in different ways"
        )
    if scales:
        return Carry(scale=float(f"{median(scales):.{DIGITS}g}"))
    return Carry(norms=tuple(f"{block}.{one}" for block, one in zip(blocks, found, strict=True)))


def _of_block(block: nn.Module, projection: str, call: Call) -> float | str | None:
    """The scale, or the path of the norm in the block; None: neither."""
    # Small shifts of large states: in the widest precision that the device has.
    dtype = torch.float32 if next(block.parameters()).device.type == "mps" else torch.float64
    view = cast_view(block, dtype)
    args, kwargs = _cast(call, dtype)
    plain = _Trial(view, projection, args, kwargs, None)
    draw = torch.Generator().manual_seed(0)
    size = plain.output.square().mean().sqrt().clamp_min(1e-6)
    shift = SHIFT * size * torch.randn(plain.output.shape, generator=draw).to(plain.output)
    shifted = _Trial(view, projection, args, kwargs, shift)
    arrived = shifted.out - plain.out
    wanted = shift.reshape(arrived.shape)
    by_token = (arrived * wanted).sum(-1) / wanted.square().sum(-1)
    scale = float(by_token.median())
    if scale > CLOSE and _alike(arrived, scale * wanted):
        return scale
    for path, (x, y) in plain.modules.items():
        if path not in shifted.modules or x.numel() != shift.numel() or y.shape != x.shape:
            continue
        new_x, new_y = shifted.modules[path]
        moved = (new_y - y).reshape(arrived.shape)
        if _alike((new_x - x).reshape(shift.shape), shift) and _alike(arrived, moved):
            return path
    return None


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether both are the same at most tokens; [*, d]."""
    return bool(((one - other).norm(dim=-1) <= CLOSE * other.norm(dim=-1)).double().median())


class _Trial:
    """One run of a block, with its projection's output moved by `shift` if that is given."""

    def __init__(
        self,
        block: nn.Module,
        projection: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shift: torch.Tensor | None,
    ) -> None:
        self.modules: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        """First input and output of the modules that ran, by path in the block."""
        self._shift = shift
        with self._hooked(block, projection):
            self.out = first_tensor(block(*args, **kwargs)).clone()

    @contextmanager
    def _hooked(self, block: nn.Module, projection: str) -> Iterator[None]:
        def move(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            self.output = output.clone()
            return output if self._shift is None else output + self._shift

        def record(path: str) -> Any:
            def hook(_module: Any, args: Any, output: Any) -> None:
                if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
                    self.modules[path] = (args[0].clone(), output.clone())

            return hook

        with ExitStack() as hooks:
            for path, module in block.named_modules():
                hook = move if path == projection else record(path)
                if path:
                    hooks.callback(module.register_forward_hook(hook).remove)
            yield


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Arguments of a block with every floating-point tensor in them in `dtype`."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(one, dtype) for one in value)
    if isinstance(value, dict):
        return {key: _cast(one, dtype) for key, one in value.items()}
    return value

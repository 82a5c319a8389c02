"""Find how a block carries its projection's output to the residual stream: by moving it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
"""Relative to the shift that arrives; the trial is in float32."""

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
    first = found[0]
    if any(type(one) is not type(first) for one in found) or (
        isinstance(first, float) and any(one != first for one in found)
    ):
        raise UnsupportedModel(
            f"{name}: its blocks carry their MLP's output to the residual stream in different ways"
        )
    if isinstance(first, float):
        return Carry(scale=first)
    return Carry(norms=tuple(f"{block}.{one}" for block, one in zip(blocks, found, strict=True)))


def _of_block(block: nn.Module, projection: str, call: Call) -> float | str | None:
    """The scale, or the path of the norm in the block; None: neither."""
    view = cast_view(block, torch.float32)
    args, kwargs = _in_float32(call)
    plain = _Trial(view, projection, args, kwargs, None)
    draw = torch.Generator().manual_seed(0)
    size = plain.output.square().mean().sqrt().clamp_min(1e-6)
    shift = SHIFT * size * torch.randn(plain.output.shape, generator=draw).to(plain.output.device)
    shifted = _Trial(view, projection, args, kwargs, shift)
    arrived = shifted.out - plain.out
    wanted = shift.reshape(arrived.shape)
    scale = float((arrived * wanted).sum() / wanted.square().sum())
    if _alike(arrived, scale * wanted):
        return round(scale, 6)
    for path, (x, y) in plain.modules.items():
        if path not in shifted.modules or x.numel() != shift.numel() or y.shape != x.shape:
            continue
        new_x, new_y = shifted.modules[path]
        moved = (new_y - y).reshape(arrived.shape)
        if _alike((new_x - x).reshape(shift.shape), shift) and _alike(arrived, moved):
            return path
    return None


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() <= CLOSE * other.norm())


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


def _in_float32(value: Any) -> Any:
    """Arguments of a block with every floating-point tensor in them in float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(map(_in_float32, value))
    if isinstance(value, list):
        return list(map(_in_float32, value))
    if isinstance(value, dict):
        return {key: _in_float32(one) for key, one in value.items()}
    return value

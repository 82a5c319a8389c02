"""How what an MLP's output projection gives reaches the residual stream.

In most decoders it is added as it is; some scale it, some (Gemma 2 and 3, OLMo 2, OPT-350M) pass it
through a norm first, alone or together with the stream. A change δ of the projection's output moves
the state after the block by

    scale · δ                    or, through the norm N with its present input x,
    N(x + δ) - N(x)

and the method needs both this and its inverse: which δ brings about a wanted move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from memit_core.views import cast_view

CARRY_REVISION = 1
"""Raised when the same facts give other changes on models that are not plain."""
DAMPING = 1e-3
"""Of the norm's squared gain: what it hardly lets through is not forced through it."""
NEWTON_STEPS = 8
SOLVE_STEPS = 60
SOLVED = 1e-10
"""Of the squared right-hand side."""


@dataclass(frozen=True)
class Carry:
    """The same for every block of a decoder."""

    scale: float = 1.0
    norms: tuple[str, ...] = ()
    """Path of each block's norm; empty where there is none."""

    @property
    def plain(self) -> bool:
        """Whether it is added as it is."""
        return self.scale == 1.0 and not self.norms

    def norm(self, view: Any, layer: int, dtype: torch.dtype = torch.float32) -> Any:
        """A block's norm as a module of its own in `dtype`; None where there is none."""
        if not self.norms:
            return None
        return cast_view(view.get_submodule(self.norms[layer]), dtype)


def arrives(
    carry: Carry, norm: Any, inputs: torch.Tensor | None, delta: torch.Tensor
) -> torch.Tensor:
    """The move of the states that changes `delta` of the projection's output bring about.

    Args:
        norm: as `Carry.norm` gives it.
        inputs: what goes into the norm now; None where there is none.
        delta: [*, d].

    Returns:
        [*, d], in the dtype of `delta`.
    """
    if norm is None or inputs is None:
        return delta if carry.scale == 1.0 else carry.scale * delta
    moved: torch.Tensor = norm(inputs + delta) - norm(inputs)
    return moved


def needed(
    carry: Carry, norm: Any, inputs: torch.Tensor | None, wanted: torch.Tensor
) -> torch.Tensor:
    """The change of the projection's output that brings about a move; the inverse of `arrives`.

    A norm lets some moves through only in part: what is found is the δ of least

        ‖N(x + δ) - N(x) - wanted‖² + μ ‖δ‖²

    by Gauss and Newton's steps, each solved by conjugate gradients; μ is `DAMPING` of
    ‖N(x)‖² / ‖x‖².

    Args:
        norm: in float64.
        inputs: [n, d] float64.
        wanted: [n, d] float64.

    Returns:
        [n, d] float64.
    """
    if norm is None or inputs is None:
        return wanted / carry.scale
    mu = DAMPING * norm(inputs).square().sum(-1, keepdim=True)
    mu = mu / inputs.square().sum(-1, keepdim=True)
    delta = torch.zeros_like(wanted)
    for _ in range(NEWTON_STEPS):
        slope = _Slope(lambda at: arrives(carry, norm, inputs, at), delta)
        rest = slope.transposed(wanted - slope.value) - mu * delta
        delta = delta + _conjugate_gradients(slope, mu, rest)
    return delta


class _Slope:
    """A function of rows at one point: its value [n, d], and products with its Jacobian J there."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> None:
        with torch.enable_grad():
            self._at = at.detach().requires_grad_()
            self._value = function(self._at)
            # Jᵀu as a function of u: its own derivative is J, without forward-mode differentiation.
            self._left = torch.zeros_like(self._value, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self._value, self._at, self._left, create_graph=True
            )

    @property
    def value(self) -> torch.Tensor:
        return self._value.detach()

    def transposed(self, left: torch.Tensor) -> torch.Tensor:
        """Jᵀ left."""
        (product,) = torch.autograd.grad(self._value, self._at, left, retain_graph=True)
        return product

    def along(self, step: torch.Tensor) -> torch.Tensor:
        """J step."""
        (product,) = torch.autograd.grad(self._pulled, self._left, step, retain_graph=True)
        return product


def _conjugate_gradients(slope: _Slope, mu: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The solution s of (JᵀJ + μ) s = right for every row, [n, d]."""
    solution = torch.zeros_like(right)
    rest = direction = right
    squared = rest.square().sum(-1, keepdim=True)
    enough = SOLVED * squared
    for _ in range(SOLVE_STEPS):
        if bool((squared <= enough).all()):
            break
        image = slope.transposed(slope.along(direction)) + mu * direction
        along = (direction * image).sum(-1, keepdim=True)
        length = torch.where(along > 0, squared / along, torch.zeros_like(along))
        solution = solution + length * direction
        rest = rest - length * image
        before, squared = squared, rest.square().sum(-1, keepdim=True)
        direction = rest + torch.where(before > 0, squared / before, before) * direction
    return solution

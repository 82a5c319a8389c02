"""The editing network: it makes of each token's x and g those that the edit is written with.

x and g side by side are normalised by their running mean and deviation, and go through two layers
z + UVz that change nothing before training. Matrices of one shape share both; each has a scale and
a shift of its own in every layer, and a learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from memit_core.methods.mend.gradients import Tokens
from memit_core.mlp import Shape

RANK = 1_920
"""As published."""
LEARNING_RATE = 1e-4
"""Of every matrix before training, as published."""
TINY = 1e-7
"""Added to a deviation, as published."""


class Normaliser(nn.Module):
    """Running mean and deviation of each entry; nothing is changed before two tokens are seen."""

    count: torch.Tensor
    mean: torch.Tensor
    squares: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("squares", torch.zeros(width))

    @torch.no_grad()
    def observe(self, seen: torch.Tensor) -> None:
        """Take in tokens [n, width], by Chan's formula for two sets."""
        count = self.count + len(seen)
        mean = seen.mean(0)
        apart = mean - self.mean
        self.squares += ((seen - mean) ** 2).sum(0) + apart**2 * self.count * len(seen) / count
        self.mean += apart * len(seen) / count
        self.count.copy_(count)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.count < 2:
            return tokens
        deviation = (self.squares / (self.count - 1)).sqrt()
        return (tokens - self.mean) / (deviation + TINY)


class LowRankLayer(nn.Module):
    """z + scale · (UVz + b) + shift, with ReLU on what is added if `rectified`.

    Args:
        matrices: that have a scale and a shift here.
    """

    def __init__(self, width: int, rank: int, matrices: int, *, rectified: bool) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(matrices, width))
        self.shift = nn.Parameter(torch.zeros(matrices, width))
        self.rectified = rectified

    def forward(self, z: torch.Tensor, matrix: int) -> torch.Tensor:
        added = z @ self.v.T @ self.u.T + self.bias
        added = self.scale[matrix] * added + self.shift[matrix]
        # relu() has no gradient at 0, where all of this begins; clamp has.
        return z + (added.clamp(min=0) if self.rectified else added)


class Transform(nn.Module):
    """What the matrices of one shape share."""

    def __init__(self, shape: Shape, rank: int, matrices: int) -> None:
        super().__init__()
        self.normaliser = Normaliser(shape.width)
        self.first = LowRankLayer(shape.width, rank, matrices, rectified=True)
        self.second = LowRankLayer(shape.width, rank, matrices, rectified=False)

    def forward(self, tokens: torch.Tensor, matrix: int) -> torch.Tensor:
        z: torch.Tensor = self.normaliser(tokens)
        return self.second(self.first(z, matrix), matrix)  # type: ignore[no-any-return]


class Network(nn.Module):
    """All of it.

    Args:
        matrices: shapes by module path.
        rank: of U V, at most the width of [x; g].
    """

    def __init__(self, matrices: Mapping[str, Shape], rank: int = RANK) -> None:
        super().__init__()
        self.matrices = dict(matrices)
        by_shape: dict[Shape, list[str]] = {}
        for path, shape in matrices.items():
            by_shape.setdefault(shape, []).append(path)
        self._place = {
            path: (_name(shape), number)
            for shape, paths in by_shape.items()
            for number, path in enumerate(paths)
        }
        self.transforms = nn.ModuleDict(
            {
                _name(shape): Transform(shape, min(rank, shape.width), len(paths))
                for shape, paths in by_shape.items()
            }
        )
        self.rates = nn.Parameter(torch.full((len(matrices),), LEARNING_RATE))

    @property
    def dtype(self) -> torch.dtype:
        return self.rates.dtype

    def observe(self, tokens: Tokens) -> None:
        """Let the normalisers take in x and g of some tokens."""
        for path, (x, g) in tokens.items():
            if len(x):
                shape, _ = self._place[path]
                self.transforms[shape].normaliser.observe(self._beside(x, g))  # type: ignore

    def updates(self, tokens: Tokens) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Factors of each matrix's change ΔW = left rightᵀ = -η Σ g̃ ⊗ x̃, by module path.

        Returns:
            left [outputs, tokens] and right [inputs, tokens], in the network's dtype.
        """
        made = {}
        for number, (path, shape) in enumerate(self.matrices.items()):
            name, matrix = self._place[path]
            transformed = self.transforms[name](self._beside(*tokens[path]), matrix)
            x, g = transformed.split([shape.inputs, shape.outputs], dim=-1)
            made[path] = (-self.rates[number] * g.T, x.T)
        return made

    def _beside(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.to(self.dtype), g.to(self.dtype)], dim=-1)


def _name(shape: Shape) -> str:
    return f"{shape.inputs}x{shape.outputs}"

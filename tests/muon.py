"""Muon (Jordan et al., 2024) in the matrices' own dtype; torch's multiplies in bfloat16 only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

MOMENTUM = 0.95
STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic that the paper takes: steep at zero, so that few steps are enough."""
ADAM_RMS = 0.2
"""Root mean square of an update at rate 1, about that of Adam's (Moonlight, 2502.16982)."""


class Muon(torch.optim.Optimizer):
    """Matrices by the orthogonal factor of their gradients' mean, with Nesterov's momentum."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float = 1e-3) -> None:
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for matrix in group["params"]:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal(matrix.grad.lerp(mean, MOMENTUM))
                rate = group["lr"] * ADAM_RMS * max(matrix.shape) ** 0.5
                matrix.add_(update, alpha=-rate)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About U Vᵀ of U S Vᵀ [rows, columns], with singular values between 0.5 and 1.5."""
    x: torch.Tensor = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x

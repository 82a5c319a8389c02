"""The closed form, in float64: ΔW = R Kᵀ (λC + K Kᵀ)⁻¹ (equation 14 of the paper)."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from memit_core.errors import MemitError, NonFinite

RIDGE = 1e-9
"""Relative to the mean of the diagonal: keeps the Cholesky of a nearly singular C possible."""
WOODBURY_SHARE = 0.5
"""Up to so many keys, relative to their width m, the factor of λC is used."""


class KeySolver(Protocol):
    """Solved keys X of one layer, so that ΔW = R Xᵀ writes the residuals R."""

    def solve(self, keys: torch.Tensor, mom2_update_weight: float) -> torch.Tensor:
        """K [m, n] and λ → X [m, n], float64 on the CPU.

        Raises:
            NonFinite: K holds NaN or infinity.
        """


class Solver:
    """X = (λC + K Kᵀ)⁻¹ K for one layer's C, so that ΔW = R Xᵀ.

    With few keys by Woodbury's identity on a factor of C that is made once, for every λ; with many
    by the Cholesky factor of the whole. Which of the two depends on the number of keys alone.

    Args:
        covariance: C [m, m]; only its factor is kept on the device.
        device: the model's.

    Raises:
        NonFinite: C holds NaN or infinity.
    """

    def __init__(self, covariance: torch.Tensor, device: torch.device) -> None:
        if not covariance.isfinite().all():
            raise NonFinite("the covariance")
        self._device = solve_device(device)
        self._covariance = covariance
        self._factor: torch.Tensor | None = None

    @property
    def factored(self) -> bool:
        """Whether the factor has been made."""
        return self._factor is not None

    def factor(self) -> torch.Tensor:
        """The Cholesky factor of C, [m, m] float64, lower; made once, as it serves every λ.

        Raises:
            MemitError: C is not positive definite.
        """
        if self._factor is None:
            self._factor = _cholesky(self._with_ridge(), "the covariance")
        return self._factor

    def _with_ridge(self) -> torch.Tensor:
        """C with its ridge, [m, m]."""
        c = self._covariance.to(self._device, torch.float64, copy=True)
        c.diagonal().add_(RIDGE * c.diagonal().mean())
        return c

    def solve(self, keys: torch.Tensor, mom2_update_weight: float) -> torch.Tensor:
        """K [m, n] and λ → X [m, n], float64 on the CPU.

        Raises:
            NonFinite: K holds NaN or infinity.
            MemitError: C or λC + K Kᵀ is not positive definite.
        """
        if not keys.isfinite().all():
            raise NonFinite("a key")
        k = keys.to(self._device, torch.float64)
        m, n = k.shape
        if n > WOODBURY_SHARE * m:
            a = mom2_update_weight * self._with_ridge() + k @ k.T
            whole: torch.Tensor = torch.cholesky_solve(k, _cholesky(a, "λC + K Kᵀ"))
            return whole.cpu()
        # (λLLᵀ + KKᵀ)⁻¹ K = L⁻ᵀ Y (1 + YᵀY)⁻¹ / √λ with Y = L⁻¹ K / √λ.
        root, factor = math.sqrt(mom2_update_weight), self.factor()
        y = torch.linalg.solve_triangular(factor, k, upper=False) / root
        small = y.T @ y
        small.diagonal().add_(1)
        inner = torch.cholesky_solve(y.T, _cholesky(small, "1 + YᵀY")).T
        x: torch.Tensor = torch.linalg.solve_triangular(factor.T, inner, upper=True)
        return (x / root).cpu()


def _cholesky(a: torch.Tensor, name: str) -> torch.Tensor:
    factor: torch.Tensor
    factor, info = torch.linalg.cholesky_ex(a)
    if int(info):
        raise MemitError(
            f"{name} is not positive definite: the covariance has too few tokens for this model; "
            "raise mom2_n_tokens or give a longer corpus"
        )
    return factor


def solve_device(device: torch.device) -> torch.device:
    """Where float64 is fast: CUDA devices of compute capability x.0 have full rate, others 1/32."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[1] == 0:
        return device
    return torch.device("cpu")

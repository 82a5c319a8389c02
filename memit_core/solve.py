"""The closed form, in float64: ΔW = R Kᵀ (λC + K Kᵀ)⁻¹ (equation 14 of the paper)."""

from __future__ import annotations

import torch

from memit_core.errors import MemitError, NonFinite

RIDGE = 1e-9
"""Relative to the mean of the diagonal: keeps the Cholesky of a nearly singular C possible."""
WOODBURY_SHARE = 0.5
"""Up to so many keys, relative to their width m, the factor of λC is used."""


class Solver:
    """X = (λC + K Kᵀ)⁻¹ K for one layer's C and λ, so that ΔW = R Xᵀ.

    With few keys by Woodbury's identity on a factor of λC that is made once; with many by the
    Cholesky factor of the whole. Which of the two depends on the number of keys alone.

    Args:
        covariance: C [m, m].
        mom2_update_weight: λ.

    Raises:
        NonFinite: C holds NaN or infinity.
    """

    def __init__(self, covariance: torch.Tensor, mom2_update_weight: float) -> None:
        if not covariance.isfinite().all():
            raise NonFinite("the covariance")
        self._device = solve_device(covariance.device)
        self._covariance = covariance
        self._weight = mom2_update_weight
        self._factor: torch.Tensor | None = None

    def _old_memory(self) -> torch.Tensor:
        """λC with its ridge, [m, m]."""
        a = self._weight * self._covariance.to(self._device, torch.float64)
        a.diagonal().add_(RIDGE * a.diagonal().mean())
        return a

    def solve(self, keys: torch.Tensor) -> torch.Tensor:
        """K [m, n] → X [m, n], float64 on the CPU.

        Raises:
            NonFinite: K holds NaN or infinity.
            MemitError: λC + K Kᵀ is not positive definite.
        """
        if not keys.isfinite().all():
            raise NonFinite("a key")
        k = keys.to(self._device, torch.float64)
        m, n = k.shape
        if n > WOODBURY_SHARE * m:
            whole: torch.Tensor = torch.cholesky_solve(k, _cholesky(self._old_memory() + k @ k.T))
            return whole.cpu()
        if self._factor is None:
            self._factor = _cholesky(self._old_memory())
        # (LLᵀ + KKᵀ)⁻¹ K = L⁻ᵀ Y (1 + YᵀY)⁻¹ with Y = L⁻¹ K.
        y = torch.linalg.solve_triangular(self._factor, k, upper=False)
        small = y.T @ y
        small.diagonal().add_(1)
        inner = torch.cholesky_solve(y.T, _cholesky(small)).T
        x: torch.Tensor = torch.linalg.solve_triangular(self._factor.T, inner, upper=True)
        return x.cpu()


def _cholesky(a: torch.Tensor) -> torch.Tensor:
    factor: torch.Tensor
    factor, info = torch.linalg.cholesky_ex(a)
    if int(info):
        raise MemitError(
            "λC + K Kᵀ is not positive definite: the covariance has too few tokens for this model; "
            "raise mom2_n_tokens or give a longer corpus"
        )
    return factor


def solve_device(device: torch.device) -> torch.device:
    """Where float64 is fast: CUDA devices of compute capability x.0 have full rate, others 1/32."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[1] == 0:
        return device
    return torch.device("cpu")

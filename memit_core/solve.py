"""The closed form, in float64: ΔW = R Kᵀ (λC + K Kᵀ)⁻¹ (equation 14 of the paper)."""

from __future__ import annotations

import torch

from memit_core.errors import MemitError, NonFinite

RIDGE = 1e-9
"""Relative to the mean of the diagonal: keeps the Cholesky of a nearly singular C possible."""


def solve(covariance: torch.Tensor, keys: torch.Tensor, mom2_update_weight: float) -> torch.Tensor:
    """X = (λC + K Kᵀ)⁻¹ K, so that ΔW = R Xᵀ.

    Args:
        covariance: C [m, m], float64.
        keys: K [m, n], float64.
        mom2_update_weight: λ.

    Returns:
        X [m, n], float64, on the device of `covariance`.

    Raises:
        NonFinite: C or K holds NaN or infinity.
        MemitError: λC + K Kᵀ is not positive definite.
    """
    if not (covariance.isfinite().all() and keys.isfinite().all()):
        raise NonFinite("the covariance or a key")
    a = mom2_update_weight * covariance + keys @ keys.T
    a.diagonal().add_(RIDGE * a.diagonal().mean())
    factor, info = torch.linalg.cholesky_ex(a)
    if int(info):
        raise MemitError(
            "λC + K Kᵀ is not positive definite: the covariance has too few tokens for this model; "
            "raise mom2_n_tokens or give a longer corpus"
        )
    return torch.cholesky_solve(keys, factor)

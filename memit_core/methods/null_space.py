"""AlphaEdit's closed form: only directions that text hardly uses are written to."""

from __future__ import annotations

import torch

from memit_core.errors import MemitError, NonFinite
from memit_core.solve import WOODBURY_SHARE, solve_device


class NullSpace:
    """P = 1 - S Sᵀ for one layer's C, S the eigenvectors that are spared.

    Args:
        covariance: C [m, m].
        device: the model's.
        threshold: eigenvalues of C from here on are spared; None spares the largest.
        share: of all directions, what None leaves to be written to.

    Raises:
        NonFinite: C holds NaN or infinity.
        MemitError: no direction is left.
    """

    def __init__(
        self,
        covariance: torch.Tensor,
        device: torch.device,
        threshold: float | None,
        share: float,
    ) -> None:
        if not covariance.isfinite().all():
            raise NonFinite("the covariance")
        self.device = solve_device(device)
        values, vectors = torch.linalg.eigh(covariance.to(self.device, torch.float64))
        left = round(share * len(values))
        if threshold is not None:
            left = int((values < threshold).sum())
        if not left:
            raise MemitError(
                f"the covariance has no eigenvalue below {threshold:g}: nothing can be written "
                "without a higher nullspace_threshold"
            )
        self.mean_square = float(values.sum())
        """tr C: what the squared norm of a key is on average."""
        self._spared = vectors[:, left:].contiguous()

    def project(self, keys: torch.Tensor) -> torch.Tensor:
        """P K, [m, n] float64 on the solver's device."""
        k = keys.to(self.device, torch.float64)
        projected: torch.Tensor = k - self._spared @ (self._spared.T @ k)
        return projected


class NullSpaceSolver:
    """X = (P (K Kᵀ + Kₚ Kₚᵀ) P + L2)⁻¹ P K, so that ΔW = R Xᵀ; Kₚ are all keys solved before.

    The official code has P on the left of the sum alone, which gives the same X: it lies in P's
    range.

    Args:
        l2: the ridge.
    """

    def __init__(self, space: NullSpace, l2: float) -> None:
        self._space, self._l2 = space, l2
        self._earlier: torch.Tensor | None = None

    def solve(self, keys: torch.Tensor, mom2_update_weight: float) -> torch.Tensor:  # noqa: ARG002
        """See `KeySolver.solve`; the old memory is kept by P, so λ has no part in it."""
        if not keys.isfinite().all():
            raise NonFinite("a key")
        k = self._space.project(keys)
        every = k if self._earlier is None else torch.cat([k, self._earlier], dim=1)
        self._earlier = every
        m, n = k.shape
        if every.shape[1] <= WOODBURY_SHARE * m:
            # (L2 + B Bᵀ)⁻¹ B = B (L2 + Bᵀ B)⁻¹, of which the first columns are wanted.
            wanted = torch.eye(every.shape[1], n, dtype=torch.float64, device=k.device)
            small = every.T @ every
            small.diagonal().add_(self._l2)
            return (every @ torch.cholesky_solve(wanted, torch.linalg.cholesky(small))).cpu()
        whole = every @ every.T
        whole.diagonal().add_(self._l2)
        x: torch.Tensor = torch.cholesky_solve(k, torch.linalg.cholesky(whole))
        return x.cpu()

"""Properties of ΔW = R Kᵀ (λC + K Kᵀ)⁻¹, for random matrices of all shapes, in float64.

Few keys go by Woodbury's identity, many by the whole matrix; the shapes drawn here meet both.
The solver adds a ridge of 1e-9 of the mean diagonal; with condition numbers up to 1e4, as here, it
and float64 leave relative errors below 1e-4 · 1e-9 · 1e4 ≈ 1e-5 in the worst case.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memit_core.errors import MemitError, NonFinite
from memit_core.solve import Solver
from tests.reference import closed_form

CLOSE = 1e-6


def solve(C: torch.Tensor, K: torch.Tensor, lam: float) -> torch.Tensor:
    return Solver(C, C.device).solve(K, lam)


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """R [d, n], K [m, n], C [m, m] of full rank, λ."""
    d, m, n = (draw(st.integers(1, high)) for high in (6, 12, 16))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = normal(m, 4 * m)
    C = tokens @ tokens.T / (4 * m) + 0.01 * torch.eye(m, dtype=torch.float64)
    return normal(d, n), normal(m, n), C, draw(st.sampled_from([0.1, 1.0, 20.0, 15_000.0]))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() <= CLOSE * b.norm())


@given(problems())
def test_delta_solves_the_normal_equation(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float],
) -> None:
    R, K, C, lam = problem
    delta = R @ solve(C, K, lam).T
    assert close(delta @ (lam * C + K @ K.T), R @ K.T)
    assert close(delta, closed_form(R, K, C, lam))


@given(problems(), st.integers(0, 2**31))
def test_the_order_of_facts_does_not_matter(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float], seed: int
) -> None:
    R, K, C, lam = problem
    order = torch.randperm(K.shape[1], generator=torch.Generator().manual_seed(seed))
    X = solve(C, K, lam)
    shuffled = solve(C, K[:, order], lam)
    assert close(shuffled, X[:, order])
    assert close(R[:, order] @ shuffled.T, R @ X.T)


@given(problems())
def test_delta_is_linear_in_the_residual(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float],
) -> None:
    """X knows nothing of R, so the change for a sum of residuals is the sum of the changes; and
    a fact that is already there (a zero column of R) takes no part but by its key."""
    R, K, C, lam = problem
    X = solve(C, K, lam)
    other = R.flip(0)
    assert close((2 * R - other) @ X.T, 2 * (R @ X.T) - other @ X.T)


@given(problems())
def test_without_old_memory_the_keys_get_exactly_their_residuals(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float],
) -> None:
    """λ → 0: ΔW K → R, as long as there are no more facts than dimensions.

    What is missed is R (1 + Kᵀ C⁻¹ K / λ)⁻¹, so at most λ / (λ + σ) of R, with σ the least
    eigenvalue of Kᵀ C⁻¹ K.
    """
    R, K, C, _ = problem
    n = min(2, K.shape[0])
    K, R = K[:, :n], R[:, :n]
    least = float(torch.linalg.eigvalsh(K.T @ torch.linalg.solve(C, K)).min())
    for lam in (1e-1, 1e-3, 1e-5):
        missed = R @ solve(C, K, lam).T @ K - R
        assert missed.norm() <= 1.001 * lam / (lam + least) * R.norm() + CLOSE * R.norm()


@given(problems())
def test_more_weight_on_old_memory_changes_less(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float],
) -> None:
    """What the change does to old keys, tr(Δ C Δᵀ), falls as λ grows."""
    R, K, C, lam = problem
    damage = []
    for factor in (1.0, 10.0, 100.0):
        delta = R @ solve(C, K, lam * factor).T
        damage.append(float(torch.trace(delta @ C @ delta.T)))
    assert damage[0] > damage[1] > damage[2]


def test_a_nearly_singular_covariance_is_solved() -> None:
    """Fewer tokens than dimensions leave C without full rank; the ridge carries it."""
    tokens = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    C, K = tokens @ tokens.T / 3, tokens[:, :1]
    assert solve(C, K, 10.0).isfinite().all()


def test_a_matrix_that_is_no_covariance_is_refused() -> None:
    with pytest.raises(MemitError, match="not positive definite"):
        solve(-torch.eye(4, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64), 10.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_a_number_is_refused(bad: float) -> None:
    C, K = torch.eye(4, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)
    for spoiled in (C, K):
        spoiled[1, 1] = bad
        with pytest.raises(NonFinite):
            solve(C, K, 10.0)
        spoiled[1, 1] = 1.0

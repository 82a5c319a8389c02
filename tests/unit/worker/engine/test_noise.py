"""The noise is Gumbel's, and a function of seed, step and token alone."""

from __future__ import annotations

import pytest
import torch

from tests.device import DEVICE
from worker.engine.noise import Gumbel

RECORDED = [
    [1.777709, -1.402066, 0.458107],
    [-0.018811, 1.302062, 1.134008],
    [-0.021630, 0.551131, 1.631188],
]


def noise(seeds: list[int], steps: list[int], tokens: torch.Tensor) -> torch.Tensor:
    pair = (torch.tensor(numbers, device=DEVICE) for numbers in (seeds, steps))
    return Gumbel(*pair).of(tokens.to(DEVICE)).cpu()


def test_it_is_the_same_everywhere() -> None:
    """These numbers were recorded on a CPU: a seed must mean the same on every machine."""
    found = noise([0, 7, 2**63 - 1], [0, 3, 4095], torch.tensor([0, 1, 49151]))
    recorded = torch.tensor(RECORDED)
    torch.testing.assert_close(found, recorded, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_see_the_others_nor_the_order() -> None:
    tokens = torch.randperm(5000)
    together = noise([5, 6, 7], [0, 9, 1], tokens)
    alone = noise([6], [9], torch.arange(5000))
    assert torch.equal(together[1], alone[0, tokens])


def test_it_has_gumbels_distribution() -> None:
    """Kolmogorov and Smirnov's distance of a million numbers: 1.95 / √n in 999 of 1,000 cases."""
    sample = noise(list(range(20)), [3] * 20, torch.arange(50_000)).flatten().double()
    reached = (-(-sample.sort().values).exp()).exp()
    expected = torch.linspace(0, 1, len(sample), dtype=torch.float64)
    assert (reached - expected).abs().max() < 1.95 / len(sample) ** 0.5


@pytest.mark.parametrize("shift", [0, 1, 2, 17, 1000])
@pytest.mark.parametrize("other", [(1, 0), (0, 1), (2**40, 0), (1, -1)])
def test_neighbouring_seeds_and_steps_are_independent(other: tuple[int, int], shift: int) -> None:
    """Also where one row's tokens are shifted against the other's."""
    n = 100_000
    seed, step = other
    first, second = noise([11, 11 + seed], [4, 4 + step], torch.arange(n + shift))
    correlation = torch.corrcoef(torch.stack([first[:n], second[shift:]]))[0, 1]
    assert abs(correlation) < 4 / n**0.5


@pytest.mark.parametrize("lag", [1, 2, 64, 4096])
def test_neighbouring_tokens_are_independent(lag: int) -> None:
    [row] = noise([3], [0], torch.arange(100_000))
    correlation = torch.corrcoef(torch.stack([row[:-lag], row[lag:]]))[0, 1]
    assert abs(correlation) < 4 / 100_000**0.5

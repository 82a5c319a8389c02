"""From records to one table: means over records, the Score, and 95% intervals.

Every figure is the mean over records of each record's own value, as the official summary takes it.
Its interval is the paper's, 1.96 · std / √n, with the standard deviation of the n values themselves
(not n - 1). The Score is the harmonic mean of the three mean shares; it has no values by record, so
its interval is a bootstrap's: records are drawn anew, and the half-width is half the distance
between the 2.5% and the 97.5% quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memit_core.eval.measures import NAMES, SHARES, Measures

Z95 = 1.96
DRAWS = 1_000
SCORE = "score"


@dataclass(frozen=True)
class Summary:
    """Figures by name, "score" among them; None where no record gives any."""

    values: dict[str, float | None]
    ci95: dict[str, float | None]
    """Half-widths; None also where there are fewer than two records."""


def summarise(measures: Sequence[Measures], *, seed: int = 0) -> Summary:
    """All figures over `measures`, one entry a record; in their own units, not in percent."""
    columns = {name: _column(measures, name) for name in NAMES}
    given = {name: column[~np.isnan(column)] for name, column in columns.items()}
    values = {name: float(column.mean()) if len(column) else None for name, column in given.items()}
    ci95 = {name: half_width(column) for name, column in given.items()}
    shares = np.stack([columns[name] for name in SHARES])
    return Summary(
        values={SCORE: harmonic_mean([values[name] for name in SHARES]), **values},
        ci95={SCORE: _bootstrap(shares, seed), **ci95},
    )


def harmonic_mean(shares: Sequence[float | None]) -> float | None:
    """n / Σ(1/share); 0 where a share is 0, None where one is None."""
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    return len(known) / sum(1 / share for share in known) if all(known) else 0.0


def _column(measures: Sequence[Measures], name: str) -> np.ndarray[Any, Any]:
    values = [getattr(one, name) for one in measures]
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def half_width(values: np.ndarray[Any, Any] | Sequence[float]) -> float | None:
    """Of the 95% interval of the mean; None of fewer than two values."""
    return Z95 * float(np.std(values)) / math.sqrt(len(values)) if len(values) > 1 else None


def _bootstrap(shares: np.ndarray[Any, Any], seed: int) -> float | None:
    """Half-width of the Score's interval.

    Args:
        shares: [3, records], NaN where a record does not give the share.
    """
    count = shares.shape[1]
    if count < 2:
        return None
    random = np.random.default_rng(seed)
    scores = []
    for _ in range(DRAWS):
        drawn = shares[:, random.integers(0, count, count)]
        known = [row[~np.isnan(row)] for row in drawn]
        score = harmonic_mean([float(row.mean()) if len(row) else None for row in known])
        if score is not None:
            scores.append(score)
    if not scores:
        return None
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(high - low) / 2

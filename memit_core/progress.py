"""How long work reports to its caller where it is, and how the caller stops it."""

from __future__ import annotations

from typing import Protocol


class ProgressCallback(Protocol):
    """Called between two steps of long work; raise `memit_core.errors.Cancelled` to stop it.

    Args:
        stage: what is being done, e.g. "covariance", "z", "insert".
        done: units done.
        total: units in all.
        loss: mean loss of the facts being optimised, where there is one.
    """

    def __call__(self, stage: str, done: int, total: int, *, loss: float | None = None) -> None: ...


def silent(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
    """A `ProgressCallback` that reports to nobody."""

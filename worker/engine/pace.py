"""How much of waiting prompts a step computes, so that running rows do not notice."""

from __future__ import annotations

LEAST = 64
"""Prompt tokens of a step, however slow they are: fewer take hardly less time on any processor."""
STEPS = 2
"""Decode steps whose time the prompts of a step may take."""
RECENT = 0.2
"""Part of the newest step in the means."""


class Pace:
    """Prompt tokens for the next step: as many as take the time of two decode steps, or `most`.

    Where more requests wait for their first token than rows are running, it takes so many times
    that; where no row is running nobody is held up, and it takes `most`.

    Args:
        on_cpu: elsewhere work is only queued while its time is taken, and steps always take `most`.
    """

    def __init__(self, most: int, *, on_cpu: bool = True) -> None:
        self._most, self._on_cpu = most, on_cpu
        self._token_seconds: float | None = None
        self._step_seconds: float | None = None

    def tokens(self, running: int, waiting: int) -> int:
        """For a step with so many running rows, and requests that wait for their first token."""
        if not running or not self._on_cpu:
            return self._most
        if self._token_seconds is None or self._step_seconds is None:
            return min(LEAST, self._most)
        seconds = STEPS * self._step_seconds * max(1.0, waiting / running)
        return min(max(int(seconds / self._token_seconds), LEAST), self._most)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """So many prompt tokens, padding included, took so long."""
        self._token_seconds = _mean(self._token_seconds, seconds / tokens)

    def decoded(self, seconds: float) -> None:
        """A token of every running row took so long."""
        self._step_seconds = _mean(self._step_seconds, seconds)


def _mean(before: float | None, new: float) -> float:
    return new if before is None else (1 - RECENT) * before + RECENT * new

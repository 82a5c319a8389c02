"""How much of waiting prompts a step computes, so that running rows do not notice."""

from __future__ import annotations

from collections.abc import Sequence

LEAST = 32
"""Prompt tokens of a step, however slow they are: half as many take three quarters of the time."""
LEAST_ALONE = 512
"""The same where no row is running."""
PADDING = 16
"""Tokens of padding that cost less time than a forward of their own."""
ALONE_SECONDS = 3.0
"""How long a step may take where no row is running: what comes meanwhile is not yet looked at."""
WORTH = 128
"""Tokens that a prompt gets where two share a step: one forward of so many takes two thirds of the
time of two of half as many, which read the weights twice."""
SHORT = 256
"""Tokens of a prompt that is not worth pieces where many wait."""
BURST = 0.5
"""Short prompts that wait for each running row, from which on they are computed first."""
BURST_SECONDS = 1.0
"""How long a step then takes: rows that begin together end together, and leave no place empty."""
STEPS = 2
"""Decode steps whose time the prompts of a step may take."""
RECENT = 0.2
"""Part of the newest step in the means."""


class Pace:
    """Prompt tokens for the next step: as many as take the time of two decode steps, or `most`.

    Where more long ones wait than rows are running, it takes so many times that. Where half as many
    short ones wait as rows run, it takes these for a second. Where no row is running it takes as
    many as it has the time for: all that wait get their first token together, and none is held up
    by the prompts of the others.

    Args:
        most: prompt tokens of a step, padding included.
        on_cpu: elsewhere work is only queued while its time is taken, and steps always take `most`.
    """

    def __init__(self, most: int, *, on_cpu: bool = True) -> None:
        self._most, self._on_cpu = most, on_cpu
        self._token_seconds: float | None = None
        self._step_seconds: float | None = None
        self._turn = 0

    def tokens(self, running: int, waiting: int) -> int:
        """For a step with so many running rows, and prompts that are being computed or are long and
        wait; `burst` is for short ones."""
        if not self._on_cpu:
            return self._most
        least, seconds = LEAST_ALONE, ALONE_SECONDS
        if running:
            more = max(1, waiting / running)
            least, seconds = LEAST, STEPS * (self._step_seconds or 0.0) * more
        return min(max(self._within(seconds), least), self._most)

    def burst(self, running: int, lengths: Sequence[int]) -> int:
        """Tokens of short prompts alone, for the same step; 0 where too few wait.

        Args:
            lengths: tokens of the prompts that wait.
        """
        short = sum(length <= SHORT for length in lengths)
        few = not self._on_cpu or not short or short < BURST * running
        return 0 if few else min(self._within(BURST_SECONDS), self._most)

    def _within(self, seconds: float) -> int:
        """Tokens that can be computed in such a time; 0 while nothing was measured."""
        return 0 if self._token_seconds is None else int(seconds / self._token_seconds)

    def split(self, tokens: int, begun: int, *, new: bool) -> tuple[list[int], int]:
        """Of a step's prompt tokens, those of each prefill that was begun before, and of new ones.

        A long prompt does not make short ones wait, nor they it: each gets the same. Where that
        would be less than `WORTH`, they take turns, new ones first.

        Args:
            begun: how many were.
            new: whether any can be admitted beside them.
        """
        newest = int(new or not begun)
        takers = newest + begun
        some = min(takers, max(1, tokens // WORTH))
        turns = {(self._turn + place) % takers for place in range(some)}
        self._turn = (self._turn + some) % takers
        each = [tokens // some if place in turns else 0 for place in range(takers)]
        return each[newest:], sum(each[:newest])

    def to_the_end(self, tokens: int) -> int:
        """What a piece of so many may take instead, if the prompt then ends: less is not worth a
        forward of its own."""
        return min(tokens + LEAST, self._most)

    def rest(self, left: int) -> int:
        """Of so many tokens that a step has left, those that are worth a forward more."""
        return left if left >= LEAST else 0

    def together(self, lengths: Sequence[int]) -> bool:
        """Whether prompts of so many tokens are computed together, padded to the longest.

        A CPU has work enough in one prompt, and padding is work as any other.
        """
        padded = max(lengths) * len(lengths)
        return padded <= self._most and not (self._on_cpu and padded - sum(lengths) > PADDING)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """So many prompt tokens, padding included, took so long."""
        self._token_seconds = _mean(self._token_seconds, seconds / tokens)

    def decoded(self, seconds: float) -> None:
        """A token of every running row took so long."""
        self._step_seconds = _mean(self._step_seconds, seconds)


def _mean(before: float | None, new: float) -> float:
    return new if before is None else (1 - RECENT) * before + RECENT * new

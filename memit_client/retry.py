"""Whether and when a request that failed is sent again."""

from __future__ import annotations

import secrets

from memit_client.endpoints import Repeat
from memit_client.errors import ConnectionFailed, MemitError, Refused, TooManyRequests, Unavailable

FIRST_SECONDS = 0.5
MOST_SECONDS = 8.0
LONGEST_WISH = 60.0
"""A service that asks for a longer pause is not waited for."""


def pause(error: MemitError, repeat: Repeat, tried: int) -> float | None:
    """Seconds after which to try again; None: not at all.

    What the service asks for (`Retry-After`), else twice as long each time, and up to a quarter
    less, so that clients which failed together do not come back together.

    Args:
        tried: attempts before this one, from 0.
    """
    if not _passing(error, repeat):
        return None
    wish = error.retry_after if isinstance(error, Refused) else None
    if wish is not None:
        return wish if wish <= LONGEST_WISH else None
    longest = min(FIRST_SECONDS * 2.0**tried, MOST_SECONDS)
    return longest * secrets.SystemRandom().uniform(0.75, 1.0)


def _passing(error: MemitError, repeat: Repeat) -> bool:
    if repeat is Repeat.NEVER:
        return False
    if isinstance(error, ConnectionFailed):
        return repeat is Repeat.ALWAYS or not error.sent
    return isinstance(error, TooManyRequests | Unavailable)

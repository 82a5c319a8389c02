"""When an event is sent again that was not taken."""

from __future__ import annotations

import random

PAUSES = (5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0, 86_400.0)
"""Seconds between an attempt and the next; after the last one it is given up."""
JITTER = 0.2
"""Share by which a pause is longer at most, so that receivers are not asked all at once."""
MAX_RETRY_AFTER = 86_400.0


def pause_after(attempts: int, retry_after: float | None = None) -> float | None:
    """Seconds until the next attempt; None: there is none.

    Args:
        attempts: how many were made.
        retry_after: seconds that the receiver asks to wait; at most a day is heard.
    """
    if attempts > len(PAUSES):
        return None
    pause = PAUSES[attempts - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311 - no secret
    return max(pause, min(retry_after or 0.0, MAX_RETRY_AFTER))

"""Limits are counted by the minute."""

from __future__ import annotations

import time

ENOUGH = 5.0


def wait_for_a_fresh_minute() -> None:
    """So that all that is counted in the next seconds falls into one minute."""
    left = 60 - time.time() % 60
    if left < ENOUGH:
        time.sleep(left + 0.1)

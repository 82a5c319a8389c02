"""News of the registry from Redis, so that nobody looks at it again and again."""

from __future__ import annotations

import time


class Changes:
    """How often something changed; the heartbeat listens, and anybody may ask, from any thread."""

    def __init__(self, poll_seconds: float) -> None:
        """Nothing has changed yet.

        Args:
            poll_seconds: without news, a look is due every so many seconds all the same.
        """
        self.poll_seconds = poll_seconds
        self.count = 0

    def note(self) -> None:
        """Something changed, or may have."""
        self.count += 1

    def timer(self) -> PollTimer:
        """A timer of one's own."""
        return PollTimer(self)


class PollTimer:
    """When to look again at something in the registry."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._seen = -1
        self._next = 0.0

    def due(self) -> bool:
        """Whether to look now: the first time, after news, and every `poll_seconds`."""
        count, now = self._changes.count, time.monotonic()
        if count == self._seen and now < self._next:
            return False
        self._seen, self._next = count, now + self._changes.poll_seconds
        return True

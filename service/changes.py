"""News of the registry from Redis, so that who waits need not look at it again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator

from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.transport import CHANGES_CHANNEL

log = logging.getLogger(__name__)

LISTEN_SECONDS = 5.0
RECONNECT_SECONDS = 1.0
ANYTHING = "*"
"""What somebody watches who wants all news; neither an edit nor an alias has this name."""


class Watch:
    """When to look again at one thing in the registry."""

    def __init__(self, every: float) -> None:
        self.news = asyncio.Event()
        self._every = every
        self._next = 0.0

    async def due(self, wait: float = 0.0) -> bool:
        """Whether to look now: the first time, after news, and every so many seconds.

        Args:
            wait: seconds to wait for that, at most.
        """
        left = min(wait, self._next - time.monotonic())
        if left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), left)
        if not self.news.is_set() and time.monotonic() < self._next:
            return False
        self.news.clear()
        self._next = time.monotonic() + self._every
        return True


class Changes:
    """The change channel, for all requests of this process that wait for something."""

    def __init__(self, redis: Redis, poll_seconds: float) -> None:
        self._redis = redis
        self._poll_seconds = poll_seconds
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)

    @contextlib.contextmanager
    def watch(self, what: str, every: float | None = None) -> Iterator[Watch]:
        """Watch an edit, by its id, or an alias, by its name, or `ANYTHING`.

        Args:
            every: seconds between two looks without news; by default as the service is set.
        """
        watch = Watch(self._poll_seconds if every is None else every)
        self._watches[what].add(watch)
        try:
            yield watch
        finally:
            self._watches[what].discard(watch)
            if not self._watches[what]:
                del self._watches[what]

    async def listen(self) -> None:
        """Wake those who wait, until cancelled; without Redis they look by themselves."""
        while True:
            try:
                await self._listen_while_connected()
            except RedisError as error:
                log.warning("no news of changes: %s", error)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_while_connected(self) -> None:
        async with self._redis.pubsub() as channel:
            await channel.subscribe(CHANGES_CHANNEL)
            for what in list(self._watches):
                self._wake(what)  # what was said before we listened is not said again
            while True:
                message = await channel.get_message(
                    ignore_subscribe_messages=True, timeout=LISTEN_SECONDS
                )
                if message is not None:
                    self._wake(str(message["data"]))

    def _wake(self, what: str) -> None:
        for watched in (what, ANYTHING):
            for watch in self._watches.get(watched, ()):
                watch.news.set()

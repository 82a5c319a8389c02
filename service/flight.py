"""One request's tasks on their way: few with the engines at a time, and what comes of them.

A request of many prompts has no more rows with the engines than a batch has. Its other tasks
follow as these end, behind what others have sent meanwhile, and each has its own time to start.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from contracts.generation import EndEvent, ErrorEvent, GenerateEvent, GenerateTask, StartEvent
from contracts.transport import output_stream
from service.engines import EXPIRE_SECONDS, TICK_SECONDS, Engines
from service.streams import START

ROWS_AT_ONCE = 16
"""As many as a batch has rows, by default."""


@dataclass
class _Reading:
    """How far the answer to one task is read."""

    place: int
    task: GenerateTask
    entry: str | None = None
    """In the engines' queue."""
    last: str = START
    worker: str | None = None
    ends: int = 0
    heard: float = field(default_factory=time.monotonic)

    @property
    def whole(self) -> bool:
        return self.ends >= self.task.sampling.n

    def take_event(self, event: GenerateEvent) -> None:
        if isinstance(event, StartEvent):
            self.worker = event.worker
        elif isinstance(event, EndEvent):
            self.ends += 1
        elif isinstance(event, ErrorEvent):
            self.ends = self.task.sampling.n


class Flight:
    """To be begun once, read to the end or not, and given up in any case."""

    def __init__(
        self, engines: Engines, tasks: Sequence[GenerateTask], start_seconds: float
    ) -> None:
        """
        Args:
            start_seconds: how long each task may wait for its start, once it is queued.
        """
        self._engines = engines
        self._start_seconds = start_seconds
        self._unsent = deque(enumerate(tasks))
        self._read: dict[str, _Reading] = {}
        """Tasks that engines can see and that are not whole, by the stream of their answers."""

    async def begin(self) -> None:
        """Queue the first tasks.

        Raises:
            Unavailable: no live worker is ready.
            TooManyRequests: the queue is full, or too long for a start in time.
            RedisError: Redis does not answer.
        """
        _, task = self._unsent[0]
        await self._engines.require_room(task.principal, self._start_seconds)
        await self._send()

    async def events(self) -> AsyncIterator[tuple[int, GenerateEvent] | None]:
        """What engines write of each task, by its place, in order; ends with the last answer's end.

        None comes when nothing else did for `TICK_SECONDS`.

        Raises:
            Unavailable: a task did not start in time, or its worker or stream is gone.
            RedisError: Redis does not answer.
        """
        renewed = time.monotonic()
        while self._read:
            last = {stream: reading.last for stream, reading in self._read.items()}
            found = await self._engines.read(last)
            for stream, events in found.items():
                reading = self._read[stream]
                reading.heard = time.monotonic()
                for entry, event in events:
                    reading.last = entry
                    if event is not None:
                        reading.take_event(event)
                        yield reading.place, event
                if reading.whole:
                    del self._read[stream]
                    await self._engines.forget([reading.task])
            await self._send()
            await self._check_silent()
            if not found:
                yield None
            if time.monotonic() - renewed > EXPIRE_SECONDS / 4:
                await self._engines.renew([one.task for one in self._read.values()])
                renewed = time.monotonic()

    async def give_up(self) -> None:
        """Nobody wants what is not read yet: engines that work on it drop it.

        Raises:
            RedisError: Redis does not answer.
        """
        readings = self._read.values()
        self._unsent.clear()
        await self._engines.forget(
            [reading.task for reading in readings],
            {reading.task.id: reading.entry for reading in readings if reading.entry is not None},
        )

    async def _send(self) -> None:
        """Queue as many more tasks as there is room for."""
        rows = sum(reading.task.sampling.n for reading in self._read.values())
        new: list[_Reading] = []
        while self._unsent:
            place, task = self._unsent[0]
            rows += task.sampling.n
            if rows > ROWS_AT_ONCE and (self._read or new):
                break
            self._unsent.popleft()
            now = time.time()
            times = {"deadline": now + self._start_seconds, "sent_at": now}
            new.append(_Reading(place, task.model_copy(update=times)))
        if not new:
            return
        # Before they are queued: whatever happens on the way, they are given up in the end.
        self._read.update((output_stream(reading.task.id), reading) for reading in new)
        entries = await self._engines.send([reading.task for reading in new])
        for reading, entry in zip(new, entries, strict=True):
            reading.entry = entry

    async def _check_silent(self) -> None:
        now = time.monotonic()
        for reading in self._read.values():
            if now - reading.heard >= TICK_SECONDS:
                reading.heard = now
                await self._engines.check_alive(reading.task, reading.worker)

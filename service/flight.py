"""One request's tasks on their way: few with the engines at a time, and what comes of them.

A request of many prompts has no more rows with the engines than a batch has. Its other tasks
follow as these end, behind what others have sent meanwhile, and each has its own time to start.
If the worker stops or dies that took a task, it is queued again as a task of another name, for the
same version: what a dead one may yet write, if it only slept, goes nowhere.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from contracts.generation import (
    EndEvent,
    EngineEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    StartEvent,
    TakenEvent,
    TokenEvent,
)
from contracts.transport import output_stream
from service.engines import EXPIRE_SECONDS, TICK_SECONDS, Engines, WorkerGone
from service.streams import START

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 16
"""As many as a batch has rows, by default."""
MOST_TRIES = 3
"""Workers that a task is given to, one after the other: it may be what kills them."""


@dataclass
class _Reading:
    """How far the answer to one task is read."""

    place: int
    task: GenerateTask
    entry: str | None = None
    """In the engines' queue."""
    last: str = START
    worker: str | None = None
    """Who has the task."""
    started: bool = False
    said: bool = False
    """It has text."""
    tries: int = 1
    ends: int = 0
    heard: float = field(default_factory=time.monotonic)

    @property
    def whole(self) -> bool:
        return self.ends >= self.task.sampling.n

    def may_move(self, streamed: bool) -> bool:
        """Whether another worker may begin it anew; not where a client would see text twice."""
        return self.tries < MOST_TRIES and not (streamed and self.said)

    def take_event(self, event: EngineEvent) -> None:
        if isinstance(event, TakenEvent | StartEvent):
            self.worker = event.worker
            self.started = isinstance(event, StartEvent)
        elif isinstance(event, TokenEvent):
            self.said = True
        elif isinstance(event, EndEvent):
            self.ends += 1
        elif isinstance(event, ErrorEvent):
            self.ends = self.task.sampling.n


class Flight:
    """To be begun once, read to the end or not, and given up in any case."""

    def __init__(
        self,
        engines: Engines,
        tasks: Sequence[GenerateTask],
        start_seconds: float,
        *,
        streamed: bool,
    ) -> None:
        """
        Args:
            start_seconds: how long each task may wait for its start, once it is queued.
            streamed: what was said is out, so an answer that has text does not begin again.
        """
        self._engines = engines
        self._streamed = streamed
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

        None comes when nothing else did for `TICK_SECONDS`. A second start of a task means that
        its answer begins anew.

        Raises:
            Unavailable: a task did not start in time, or its stream is gone, or its worker and no
                other one can answer.
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
                    if self._moves(reading, event):
                        await self._send_again(stream, reading, "the worker is stopping")
                        break
                    if event is not None:
                        reading.take_event(event)
                    if event is not None and not isinstance(event, TakenEvent):
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
        for stream, reading in list(self._read.items()):
            if now - reading.heard < TICK_SECONDS:
                continue
            reading.heard = now
            try:
                await self._engines.check_alive(reading.task, reading.worker, reading.started)
            except WorkerGone as gone:
                if not reading.may_move(self._streamed):
                    raise
                await self._send_again(stream, reading, gone.detail)

    def _moves(self, reading: _Reading, event: EngineEvent | None) -> bool:
        """Whether its worker leaves a task, and another one may have it."""
        leaves = isinstance(event, ErrorEvent) and event.elsewhere
        return leaves and reading.may_move(self._streamed)

    async def _send_again(self, stream: str, reading: _Reading, why: str) -> None:
        """Have another worker answer from the beginning, on the same version.

        Raises:
            Unavailable: there is none.
        """
        log.warning("%s is answered by another worker: %s", reading.task.id, why)
        await self._engines.require_ready()
        task = reading.task.model_copy(
            update={
                "id": f"gen-{secrets.token_hex(10)}",
                "deadline": time.time() + self._start_seconds,
            }
        )
        again = _Reading(reading.place, task, tries=reading.tries + 1)
        del self._read[stream]
        self._read[output_stream(task.id)] = again
        await self._engines.forget([reading.task])
        [again.entry] = await self._engines.send([task])

"""The sending side of generation: a task to the engines, and what they write back, over Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from contracts import retry_after as after
from contracts.errors import ServiceError, TooManyRequests, Unavailable
from contracts.generation import EndEvent, ErrorEvent, GenerateEvent, GenerateTask, StartEvent
from contracts.transport import GENERATE_STREAM, output_stream, worker_key
from service.streams import START, read_each_after
from service.workers import statuses

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
EXPIRE_SECONDS = 120
_READY_SECONDS = 1.0
_EVENT: TypeAdapter[GenerateEvent] = TypeAdapter(GenerateEvent)


@dataclass
class _Reading:
    """How far the answer to one task is read."""

    place: int
    task: GenerateTask
    last: str = START
    worker: str | None = None
    ends: int = 0

    @property
    def whole(self) -> bool:
        return self.ends >= self.task.sampling.n

    def take(self, entry: str, event: GenerateEvent | None) -> None:
        self.last = entry
        if isinstance(event, StartEvent):
            self.worker = event.worker
        elif isinstance(event, EndEvent):
            self.ends += 1
        elif isinstance(event, ErrorEvent):
            self.ends = self.task.sampling.n


class Engines:
    """Generation engines of all workers, reached through Redis streams."""

    def __init__(self, redis: Redis, max_queue: int) -> None:
        self._redis = redis
        self._max_queue = max_queue
        self._ready_until = 0.0
        self._starts_per_second: float | None = None

    async def send(self, tasks: Sequence[GenerateTask]) -> list[str]:
        """Open a stream for the answer to each task and queue them all; the queue's entry ids.

        Raises:
            Unavailable: no live worker is ready.
            TooManyRequests: the queue is full, or too long for a start before the deadline.
            RedisError: Redis does not answer.
        """
        await self._require_ready()
        self._require_room(await self.depth(), tasks[0].deadline - time.time())
        async with self._redis.pipeline() as pipe:
            for task in tasks:
                pipe.xadd(output_stream(task.id), {"open": "1"})
                pipe.expire(output_stream(task.id), self._lifetime(task))
            for task in tasks:
                pipe.xadd(GENERATE_STREAM, {"task": task.model_dump_json()})
            entries = (await pipe.execute())[-len(tasks) :]
        return [str(entry) for entry in entries]

    async def events(
        self, tasks: Sequence[GenerateTask]
    ) -> AsyncIterator[tuple[int, GenerateEvent] | None]:
        """What engines write of each task, by its place, in order; ends with the last answer's end.

        None comes when nothing else did for `TICK_SECONDS`.

        Raises:
            Unavailable: nobody started before the deadline, or the worker or the stream is gone.
            RedisError: Redis does not answer.
        """
        left = {output_stream(task.id): _Reading(i, task) for i, task in enumerate(tasks)}
        renewed = time.monotonic()
        while left:
            last = {output: reading.last for output, reading in left.items()}
            found = await read_each_after(self._redis, last, TICK_SECONDS)
            for output, rows in found.items():
                reading = left[output]
                for entry, fields in rows:
                    event = _parse(fields["event"]) if "event" in fields else None
                    reading.take(entry, event)
                    if event is not None:
                        yield reading.place, event
                if reading.whole:
                    del left[output]
            if not found:
                for reading in left.values():
                    await self._check_alive(reading.task, reading.worker)
                yield None
            if time.monotonic() - renewed > EXPIRE_SECONDS / 4:
                for output, reading in left.items():
                    await self._redis.expire(output, self._lifetime(reading.task))
                renewed = time.monotonic()

    async def forget(self, entries: Mapping[str, str | None]) -> None:
        """Nobody wants the answers any more: an engine that works on one drops it.

        Args:
            entries: of each task, by its id: its entry in the queue if that is known.

        Raises:
            RedisError: Redis does not answer.
        """
        if entries:
            await self._redis.delete(*(output_stream(task_id) for task_id in entries))
        queued = [entry for entry in entries.values() if entry is not None]
        if queued:
            await self._redis.xdel(GENERATE_STREAM, *queued)

    async def depth(self) -> int:
        """Requests that no engine has taken yet.

        Raises:
            RedisError: Redis does not answer.
        """
        return int(await self._redis.xlen(GENERATE_STREAM))

    async def _require_ready(self) -> None:
        if time.monotonic() < self._ready_until:
            return
        ready = [status for status in await statuses(self._redis) if status.ready]
        if not ready:
            raise Unavailable("no worker is ready to generate", retry_after=after.NO_ENGINE)
        rates = [status.starts_per_second for status in ready]
        known = [rate for rate in rates if rate is not None]
        self._starts_per_second = sum(known) if len(known) == len(rates) else None
        self._ready_until = time.monotonic() + _READY_SECONDS

    def _require_room(self, waiting: int, seconds: float) -> None:
        """Refuse at once what would only wait for its deadline, `seconds` from now."""
        if waiting >= self._max_queue:
            raise TooManyRequests(
                f"{self._max_queue} generation requests wait already",
                retry_after=after.NO_ENGINE,
            )
        if self._starts_per_second is None:
            return
        expected = waiting / self._starts_per_second
        if expected > seconds:
            raise TooManyRequests(
                f"{waiting} generation requests wait already; another would wait some "
                f"{expected:.0f} s for its start, and may wait {seconds:.0f} s",
                retry_after=min(expected - seconds, after.LONGEST),
            )

    async def _check_alive(self, task: GenerateTask, worker: str | None) -> None:
        lost = None
        if worker is None and time.time() > task.deadline:
            lost = "no engine started the request in time"
        elif worker is not None and not await self._redis.exists(worker_key(worker)):
            lost = "the worker that generated the answer is gone"
        elif not await self._redis.exists(output_stream(task.id)):
            lost = "Redis lost the request"
        if lost is not None:
            self._ready_until = 0.0
            raise Unavailable(lost, retry_after=after.NO_ENGINE)

    def _lifetime(self, task: GenerateTask) -> int:
        return max(0, int(task.deadline - time.time())) + EXPIRE_SECONDS


def _parse(text: str) -> GenerateEvent:
    try:
        return _EVENT.validate_json(text)
    except ValidationError as error:
        log.error("an engine wrote an unreadable event: %s", error)
        raise ServiceError("the engine's answer cannot be read") from error

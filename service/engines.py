"""The sending side of generation: a task to the engines, and what they write back, over Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from contracts import retry_after as after
from contracts.errors import ServiceError, TooManyRequests, Unavailable
from contracts.generation import GenerateEvent, GenerateTask, StartEvent
from contracts.transport import GENERATE_STREAM, output_stream, worker_key
from service.streams import START, read_after
from service.workers import statuses

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
EXPIRE_SECONDS = 120
_READY_SECONDS = 1.0
_EVENT: TypeAdapter[GenerateEvent] = TypeAdapter(GenerateEvent)


class Engines:
    """Generation engines of all workers, reached through Redis streams."""

    def __init__(self, redis: Redis, max_queue: int) -> None:
        self._redis = redis
        self._max_queue = max_queue
        self._ready_until = 0.0

    async def send(self, task: GenerateTask) -> str:
        """Open the answer's stream and queue the task; the queue's entry id.

        Raises:
            Unavailable: no live worker is ready.
            TooManyRequests: the queue is full.
            RedisError: Redis does not answer.
        """
        await self._require_ready()
        if await self.depth() >= self._max_queue:
            raise TooManyRequests(
                f"{self._max_queue} generation requests wait already",
                retry_after=after.NO_ENGINE,
            )
        output = output_stream(task.id)
        async with self._redis.pipeline() as pipe:
            pipe.xadd(output, {"open": "1"})
            pipe.expire(output, self._lifetime(task))
            pipe.xadd(GENERATE_STREAM, {"task": task.model_dump_json()})
            _, _, entry = await pipe.execute()
        return str(entry)

    async def events(self, task: GenerateTask) -> AsyncIterator[GenerateEvent | None]:
        """What the engine writes, in order; None when nothing came for `TICK_SECONDS`.

        Raises:
            Unavailable: nobody started before the deadline, or the worker or the stream is gone.
            RedisError: Redis does not answer.
        """
        output, last = output_stream(task.id), START
        worker: str | None = None
        renewed = time.monotonic()
        while True:
            rows = await read_after(self._redis, output, last, TICK_SECONDS)
            last = rows[-1][0] if rows else last
            for _, fields in rows:
                if "event" in fields:
                    event = _parse(fields["event"])
                    worker = event.worker if isinstance(event, StartEvent) else worker
                    yield event
            if not rows:
                await self._check_alive(task, worker)
                yield None
            if time.monotonic() - renewed > EXPIRE_SECONDS / 4:
                await self._redis.expire(output, self._lifetime(task))
                renewed = time.monotonic()

    async def forget(self, task_id: str, entry: str | None) -> None:
        """Nobody wants the answer any more: an engine that works on it drops it."""
        await self._redis.delete(output_stream(task_id))
        if entry is not None:
            await self._redis.xdel(GENERATE_STREAM, entry)

    async def depth(self) -> int:
        """Requests that no engine has taken yet.

        Raises:
            RedisError: Redis does not answer.
        """
        return int(await self._redis.xlen(GENERATE_STREAM))

    async def _require_ready(self) -> None:
        if time.monotonic() < self._ready_until:
            return
        if not any(status.ready for status in await statuses(self._redis)):
            raise Unavailable("no worker is ready to generate", retry_after=after.NO_ENGINE)
        self._ready_until = time.monotonic() + _READY_SECONDS

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

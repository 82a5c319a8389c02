"""The generation engines of all workers, over Redis: tasks to them, and what they write back."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from contracts import retry_after as after
from contracts.errors import ServiceError, TooManyRequests, Unavailable
from contracts.generation import EngineEvent, GenerateTask
from contracts.keys import LOCAL
from contracts.transport import GENERATE_STREAM, output_stream, worker_key
from contracts.turns import FORGET, PUT, TURNS, waiting_tasks
from service.streams import read_each_after
from service.workers import statuses

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
EXPIRE_SECONDS = 120
_READY_SECONDS = 1.0
_EVENT: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)


class WorkerGone(Unavailable):
    """The worker that took a task is gone; another one may answer it."""


class Engines:
    """Every method raises RedisError where Redis does not answer."""

    def __init__(self, redis: Redis, max_queue: int, max_queue_per_key: int) -> None:
        self._redis = redis
        self._max_queue = max_queue
        self._max_queue_per_key = max_queue_per_key
        self._ready_until = 0.0
        self._starts_per_second: float | None = None

    async def require_room(self, principal: str, seconds: float) -> None:
        """Refuse at once what cannot start within so many seconds.

        Raises:
            Unavailable: no live worker is ready.
            TooManyRequests: the queue is full, or that of this principal, or too long at the rate
                that engines lately had.
        """
        await self.require_ready()
        waiting, own, principals = await self._depths(principal)
        if principal != LOCAL and own >= self._max_queue_per_key:
            raise TooManyRequests(
                f"{own} generation requests of {principal} wait already",
                retry_after=after.NO_ENGINE,
            )
        if waiting >= self._max_queue:
            raise TooManyRequests(
                f"{self._max_queue} generation requests wait already",
                retry_after=after.NO_ENGINE,
            )
        if self._starts_per_second is None:
            return
        # In turn with others: before it start its own, and as many of each other principal.
        ahead = min(waiting, (own + 1) * principals)
        expected = ahead / self._starts_per_second
        if expected > seconds:
            raise TooManyRequests(
                f"{ahead} generation requests wait already; another would wait some "
                f"{expected:.0f} s for its start, and may wait {seconds:.0f} s",
                retry_after=min(expected - seconds, after.LONGEST),
            )

    async def send(self, tasks: Sequence[GenerateTask]) -> list[str]:
        """Open a stream for the answer to each task and queue them all; the queue's entry ids."""
        async with self._redis.pipeline() as pipe:
            for task in tasks:
                pipe.xadd(output_stream(task.id), {"open": "1"})
                pipe.expire(output_stream(task.id), self._lifetime(task))
            for task in tasks:
                body, seconds = task.model_dump_json(), self._lifetime(task)
                pipe.eval(PUT, 0, task.principal, task.id, body, seconds, task.priority)
            entries = (await pipe.execute())[-len(tasks) :]
        return [str(entry) for entry in entries]

    async def read(
        self, last: Mapping[str, str]
    ) -> dict[str, list[tuple[str, EngineEvent | None]]]:
        """What engines wrote to each stream after the entry that `last` has for it.

        Waits for the first of all, at most `TICK_SECONDS`. The service's own entry is None.
        """
        found = await read_each_after(self._redis, last, TICK_SECONDS)
        return {
            stream: [(entry, _parse(fields)) for entry, fields in rows]
            for stream, rows in found.items()
        }

    async def renew(self, tasks: Sequence[GenerateTask]) -> None:
        """Keep the streams of these tasks for longer."""
        for task in tasks:
            await self._redis.expire(output_stream(task.id), self._lifetime(task))

    async def forget(
        self, tasks: Sequence[GenerateTask], entries: Mapping[str, str] | None = None
    ) -> None:
        """Nobody wants these answers any more: an engine that works on one drops it.

        Args:
            entries: the queue's entries of those that no engine may have taken, by task id.
        """
        if not tasks:
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.delete(*(output_stream(task.id) for task in tasks))
            for task in tasks:
                if entries and task.id in entries:
                    pipe.eval(FORGET, 0, task.principal, task.id, entries[task.id])
            await pipe.execute()

    async def depth(self) -> int:
        """Tasks that no engine has taken yet."""
        return int(await self._redis.xlen(GENERATE_STREAM))

    async def _depths(self, principal: str) -> tuple[int, int, int]:
        """Tasks that wait; those of `principal`; principals that wait, this one among them."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xlen(GENERATE_STREAM)
            pipe.zcard(waiting_tasks(principal))
            pipe.llen(TURNS)
            waiting, own, principals = await pipe.execute()
        return waiting, own, principals + (own == 0)

    async def check_alive(self, task: GenerateTask, worker: str | None, started: bool) -> None:
        """See that a silent answer can still come, from `worker` if that has taken the task.

        Raises:
            WorkerGone: not from that worker.
            Unavailable: it cannot.
        """
        lost = None
        if not started and time.time() > task.deadline:
            lost = "no engine started the request in time"
        elif worker is not None and not await self._redis.exists(worker_key(worker)):
            self._ready_until = 0.0
            raise WorkerGone(
                "the worker that generated the answer is gone", retry_after=after.NO_ENGINE
            )
        elif not await self._redis.exists(output_stream(task.id)):
            lost = "Redis lost the request"
        if lost is not None:
            self._ready_until = 0.0
            raise Unavailable(lost, retry_after=after.NO_ENGINE)

    async def require_ready(self) -> None:
        """See that there is an engine.

        Raises:
            Unavailable: no live worker is ready.
        """
        if time.monotonic() < self._ready_until:
            return
        ready = [status for status in await statuses(self._redis) if status.ready]
        if not ready:
            raise Unavailable("no worker is ready to generate", retry_after=after.NO_ENGINE)
        rates = [status.starts_per_second for status in ready]
        known = [rate for rate in rates if rate is not None]
        self._starts_per_second = sum(known) if len(known) == len(rates) else None
        self._ready_until = time.monotonic() + _READY_SECONDS

    def _lifetime(self, task: GenerateTask) -> int:
        return max(0, int(task.deadline - time.time())) + EXPIRE_SECONDS


def _parse(fields: Mapping[str, str]) -> EngineEvent | None:
    if "event" not in fields:
        return None
    try:
        return _EVENT.validate_json(fields["event"])
    except ValidationError as error:
        log.error("an engine wrote an unreadable event: %s", error)
        raise ServiceError("the engine's answer cannot be read") from error

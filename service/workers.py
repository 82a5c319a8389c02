"""Which workers are alive or starting, as they say in Redis."""

from __future__ import annotations

import logging
from typing import TypeVar

from pydantic import ValidationError
from redis.asyncio import Redis

from contracts.transport import STARTING_KEYS, WORKER_KEYS
from contracts.workers import WorkerStarting, WorkerStatus

log = logging.getLogger(__name__)

Said = TypeVar("Said", WorkerStatus, WorkerStarting)


async def statuses(redis: Redis) -> list[WorkerStatus]:
    """Status of every live worker, by id.

    Raises:
        RedisError: Redis does not answer.
    """
    return sorted(await _said(redis, WORKER_KEYS, WorkerStatus), key=lambda status: status.id)


async def starting(redis: Redis) -> list[WorkerStarting]:
    """Every worker on its way to edit.

    Raises:
        RedisError: Redis does not answer.
    """
    found = await _said(redis, STARTING_KEYS, WorkerStarting)
    return sorted(found, key=lambda worker: (worker.host, worker.pid))


async def _said(redis: Redis, pattern: str, kind: type[Said]) -> list[Said]:
    keys = [key async for key in redis.scan_iter(match=pattern, count=1000)]
    found = []
    for key, text in zip(keys, await redis.mget(keys) if keys else [], strict=True):
        if text is None:
            continue  # it expired between the two calls
        try:
            found.append(kind.model_validate_json(text))
        except ValidationError as error:
            log.warning("ignored what a worker says, unreadable %s: %s", key, error)
    return found

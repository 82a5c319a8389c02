"""Which workers are alive, as they say in Redis."""

from __future__ import annotations

import logging

from pydantic import ValidationError
from redis.asyncio import Redis

from contracts.transport import WORKER_KEYS
from contracts.workers import WorkerStatus

log = logging.getLogger(__name__)


async def statuses(redis: Redis) -> list[WorkerStatus]:
    """Status of every live worker, by id.

    Raises:
        RedisError: Redis does not answer.
    """
    keys = [key async for key in redis.scan_iter(match=WORKER_KEYS, count=1000)]
    found = []
    for key, text in zip(keys, await redis.mget(keys) if keys else [], strict=True):
        if text is None:
            continue  # it expired between the two calls
        try:
            found.append(WorkerStatus.model_validate_json(text))
        except ValidationError as error:
            log.warning("ignored the unreadable worker status %s: %s", key, error)
    return sorted(found, key=lambda status: status.id)

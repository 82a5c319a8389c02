"""Whether Redis is set as it should be, said once at the start."""

from __future__ import annotations

import logging

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

POLICY = "maxmemory-policy"
WANTED = "noeviction"


async def check_policy(redis: Redis) -> None:
    """Warn if Redis, where its memory is full, throws away what we keep there.

    Nothing accepted is lost by that, but requests are, and edits wait to be queued again.
    """
    try:
        found = (await redis.config_get(POLICY)).get(POLICY)
    except RedisError as error:
        # It is away, or does not let clients see its settings: the service works all the same.
        log.info("%s of Redis is not known: %s", POLICY, error)
        return
    if found != WANTED:
        log.warning(
            "Redis has %s %s: where its memory is full it throws away requests and their answers; "
            "set it to %s (docs/operations.md)",
            POLICY,
            found,
            WANTED,
        )

"""Requests and tokens a minute of each key, counted in Redis for all processes together.

Windows are fixed: minutes since 1970. So around the turn of a minute up to twice as much passes.
Without Redis nothing is counted and nobody is refused: edits are accepted all the same, and nothing
generates.
"""

from __future__ import annotations

import logging
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import FieldError, TooManyRequests
from contracts.transport import rate_key
from service.principal import Principal

log = logging.getLogger(__name__)

MINUTE = 60
KEEP_SECONDS = 2 * MINUTE
REQUESTS = "requests"
TOKENS = "tokens"


class Rates:
    """The counters of all keys that have a limit."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def take_request(self, principal: Principal) -> None:
        """Count one request.

        Raises:
            TooManyRequests: it is one too many in this minute.
        """
        limit = principal.requests_per_minute
        if limit is not None and await self._count(principal, REQUESTS, 1) > limit:
            raise _over(principal, REQUESTS, limit)

    async def require_tokens(self, principal: Principal) -> None:
        """
        Raises:
            TooManyRequests: this minute's tokens are used up.
        """
        limit = principal.tokens_per_minute
        if limit is not None and await self._count(principal, TOKENS, 0) >= limit:
            raise _over(principal, TOKENS, limit)

    async def count_tokens(self, principal: Principal, tokens: int) -> None:
        """Count what was generated, in the minute in which it ended."""
        if principal.tokens_per_minute is not None and tokens:
            await self._count(principal, TOKENS, tokens)

    async def _count(self, principal: Principal, what: str, more: int) -> int:
        """The count with `more`; 0 where Redis does not answer."""
        key = rate_key(principal.id, what, int(time.time() // MINUTE))
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.incrby(key, more)
                pipeline.expire(key, KEEP_SECONDS)
                count, _ = await pipeline.execute()
        except RedisError as error:
            log.warning("the %s of %s are not counted: %s", what, principal.id, error)
            return 0
        return int(count)


def _over(principal: Principal, what: str, limit: int) -> TooManyRequests:
    reason = f"{principal.id} has used its {limit} {what} of this minute"
    error = FieldError(field="", reason=reason, limit=limit)
    return TooManyRequests(reason, errors=[error], retry_after=MINUTE - time.time() % MINUTE)

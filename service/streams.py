"""Reading Redis streams of text fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from redis.asyncio import Redis

START = "0-0"
Row = tuple[str, dict[str, str]]
"""Entry id, and the entry's fields."""


async def read_after(redis: Redis, stream: str, last: str, wait_seconds: float) -> list[Row]:
    """Entries after the id `last`, oldest first; waits for the first, at most `wait_seconds`.

    Raises:
        RedisError: Redis does not answer.
    """
    return (await read_each_after(redis, {stream: last}, wait_seconds)).get(stream, [])


async def read_each_after(
    redis: Redis, last: Mapping[str, str], wait_seconds: float
) -> dict[str, list[Row]]:
    """Entries of each stream after the id that `last` has for it; none of those with none.

    Waits for the first entry of any, at most `wait_seconds`.

    Raises:
        RedisError: Redis does not answer.
    """
    streams: dict[Any, Any] = dict(last)
    found = await redis.xread(streams, block=int(wait_seconds * 1000))
    return dict(cast(list[tuple[str, list[Row]]], found or []))


async def newest(redis: Redis, stream: str) -> Row | None:
    """The last entry; None if there is none.

    Raises:
        RedisError: Redis does not answer.
    """
    rows = cast(list[Row], await redis.xrevrange(stream, count=1))
    return rows[0] if rows else None

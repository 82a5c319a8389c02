"""Reading Redis streams of text fields."""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis

START = "0-0"
Row = tuple[str, dict[str, str]]
"""Entry id, and the entry's fields."""


async def read_after(redis: Redis, stream: str, last: str, wait_seconds: float) -> list[Row]:
    """Entries after the id `last`, oldest first; waits for the first, at most `wait_seconds`.

    Raises:
        RedisError: Redis does not answer.
    """
    found = await redis.xread({stream: last}, block=int(wait_seconds * 1000))
    # With one stream asked for there is at most one answer: [[stream, rows]].
    return cast(list[Row], found[0][1]) if found else []  # type: ignore[index]


async def newest(redis: Redis, stream: str) -> Row | None:
    """The last entry; None if there is none.

    Raises:
        RedisError: Redis does not answer.
    """
    rows = cast(list[Row], await redis.xrevrange(stream, count=1))
    return rows[0] if rows else None

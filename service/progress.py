"""Progress of a running edit, as its worker writes it to Redis."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
from anyio.to_thread import run_sync
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.edits import Progress
from contracts.transport import progress_stream
from registry.edits import Edits
from service.changes import Watch
from service.streams import START, Row, newest, read_after

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
AFTER_FAILURE_SECONDS = 1.0


async def latest(redis: Redis, edit_id: str) -> Progress | None:
    """The newest progress; None if there is none or Redis does not answer."""
    try:
        row = await newest(redis, progress_stream(edit_id))
    except RedisError as error:
        log.warning("no progress of %s: %s", edit_id, error)
        return None
    return None if row is None else _read(row)


async def follow(redis: Redis, edits: Edits, edit_id: str, watch: Watch) -> AsyncIterator[Progress]:
    """The newest progress whenever there is some, until the edit has ended.

    Only the registry says that it has ended, so this returns also if Redis lost everything.
    """
    last = START
    while not (await watch.due() and await run_sync(edits.end, edit_id) is not None):
        try:
            rows = await read_after(redis, progress_stream(edit_id), last, POLL_SECONDS)
        except RedisError as error:
            log.warning("no progress of %s: %s", edit_id, error)
            await anyio.sleep(AFTER_FAILURE_SECONDS)
            continue
        if rows:
            last = rows[-1][0]
            progress = _read(rows[-1])
            if progress is not None:
                yield progress


def _read(row: Row) -> Progress | None:
    try:
        return Progress.model_validate_json(row[1]["progress"])
    except (KeyError, ValidationError) as error:
        log.warning("ignored unreadable progress: %s", error)
        return None

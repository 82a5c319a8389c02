"""Answers as server-sent events: one line of JSON each, pings while nothing comes, `[DONE]`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi.sse import format_sse_event

DONE = format_sse_event(data_str="[DONE]")
STREAM_HEADERS = {"X-Accel-Buffering": "no"}
PING_TICKS = 15
"""Quiet ticks of an engine's answer, of a second each, between two pings."""

T = TypeVar("T")


def json_event(data: Any, name: str | None = None) -> bytes:
    """One event; without a name it is a `message`, as OpenAI's clients expect."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return format_sse_event(event=name, data_str=text)


async def pinging(answer: AsyncIterator[T | None]) -> AsyncIterator[T | None]:
    """What comes of `answer`, and None only when it is time for a ping."""
    quiet = 0
    async for found in answer:
        quiet = quiet + 1 if found is None else 0
        if found is not None or quiet % PING_TICKS == 0:
            yield found

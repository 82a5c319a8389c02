"""Follows an edit to its end, whatever connections break meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import ValidationError

from memit_client.caller import Caller
from memit_client.edits import Edit, Progress
from memit_client.endpoints import EDIT_EVENTS
from memit_client.errors import (
    ConnectionFailed,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
    WaitTimeout,
)

LOST_SECONDS = 60.0
"""How long a service that went away is waited for."""
SILENT_SECONDS = 60.0
"""The service says something every 15 s; a connection that is silent for so long is dead."""
LOOK_SECONDS = 3.0
"""The same where there is a deadline, which a silent connection must not pass by far."""
LEAST_SECONDS = 0.5
"""What the service gets to answer, however near the deadline is."""
PAUSE_SECONDS = 0.5
"""Between two connections."""


async def follow(
    caller: Caller, edit_id: str, seconds: float | None
) -> AsyncGenerator[Progress | Edit, None]:
    """How far the edit is, whenever there is news, and in the end the edit.

    Raises:
        WaitTimeout: it has not ended after `seconds`.
        ConnectionFailed, Unavailable, TooManyRequests: for `LOST_SECONDS`.
        MemitError: the service refuses, as where there is no such edit.
    """
    begun = heard = time.monotonic()
    told: Progress | None = None
    while True:
        silence = SILENT_SECONDS
        if seconds is not None:
            left = begun + seconds - time.monotonic()
            silence = max(LEAST_SECONDS, min(left, LOOK_SECONDS))
        try:
            async with (
                caller.streamed(
                    EDIT_EVENTS, read_seconds=silence, retries=0, names={"edit_id": edit_id}
                ) as answer,
                aclosing(answer.events()) as events,
            ):
                heard = time.monotonic()
                async for event in events:
                    heard = time.monotonic()
                    news = _read(event.event, event.data)
                    if isinstance(news, Edit):
                        yield news
                        return
                    if news is not None and news != told:
                        told = news
                        yield news
                    _in_time(edit_id, begun, seconds)
        except (ConnectionFailed, Unavailable, TooManyRequests):
            if time.monotonic() - heard > LOST_SECONDS:
                raise
        _in_time(edit_id, begun, seconds)
        await caller.transport.sleep(PAUSE_SECONDS)


def _in_time(edit_id: str, begun: float, seconds: float | None) -> None:
    if seconds is not None and time.monotonic() - begun >= seconds:
        raise WaitTimeout(edit_id, seconds)


def _read(event: str, data: str) -> Progress | Edit | None:
    try:
        match event:
            case "progress":
                return Progress.model_validate_json(data)
            case "end":
                return Edit.model_validate_json(data)
            case _:
                return None
    except ValidationError as error:
        raise UnexpectedAnswer(f"event {event} of an edit: {error}") from error

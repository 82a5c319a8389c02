"""The text of a generation as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError

from memit_client.caller import Caller
from memit_client.endpoints import GENERATE
from memit_client.errors import ConnectionFailed, UnexpectedAnswer, refusal
from memit_client.generation import TextEvent
from memit_client.model import Model
from memit_client.problems import Problem

DONE = "[DONE]"


class Start(Model):
    """The first event."""

    version: str


async def text_events(
    caller: Caller, body: Mapping[str, Any], headers: Mapping[str, str]
) -> AsyncGenerator[TextEvent, None]:
    """The events of one request.

    Raises:
        Refused: by an engine, also after some of the text.
        ConnectionFailed: the stream broke off.
        MemitError: as for every call.
    """
    version = ""
    async with (
        caller.streamed(GENERATE, body={**body, "stream": True}, headers=headers) as answer,
        aclosing(answer.events()) as events,
    ):
        async for event in events:
            if event.data == DONE:
                return
            try:
                if event.event == "start":
                    version = Start.model_validate_json(event.data).version
                elif event.event in ("token", "end"):
                    told = TextEvent.model_validate_json(event.data)
                    yield told.model_copy(update={"version": version})
                elif event.event == "error":
                    raise refusal(Problem.model_validate_json(event.data))
            except ValidationError as error:
                raise UnexpectedAnswer(f"event {event.event}: {error}") from error
    raise ConnectionFailed("the stream ended before the answer did")

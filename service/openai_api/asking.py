"""From a request to what engines say of it: name to version, admission, chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from pydantic import BaseModel

from contracts.errors import ServiceError
from contracts.generation import EndEvent, TokenEvent
from service.admission import Admitted, Question, Said, Ticket, admit
from service.deps import Context
from service.openai_api.answers import TokenUsage
from service.openai_api.errors import error_body
from service.openai_api.names import ref_of, served_name, version_of
from service.openai_api.requests import Asked
from service.sse import DONE, STREAM_HEADERS, json_event, pinging

Render = Callable[[int, TokenEvent | EndEvent], BaseModel]
"""A choice of a chunk, from its index and what came of it."""


@dataclass
class Asking:
    """One request with an engine, and what all its answers and chunks begin with."""

    admitted: Admitted
    head: dict[str, Any]
    choices: int
    """Answers to each prompt."""

    def index(self, place: int, choice: int) -> int:
        """Of an answer among those to all prompts."""
        return place * self.choices + choice

    async def whole(self, request: Request) -> tuple[list[Said], TokenUsage]:
        """All answers by index, and the tokens used.

        Raises:
            ServiceError: an engine refused it or failed.
            ClientDisconnect: nobody waits any more.
        """
        said = [one for answers in await self.admitted.whole(request) for one in answers]
        return said, self.usage((index, one.end) for index, one in enumerate(said))

    def usage(self, ends: Iterable[tuple[int, EndEvent]]) -> TokenUsage:
        """Of all answers, by index: each prompt's tokens once."""
        counted = dict(ends)
        prompts = sum(
            end.usage.prompt_tokens for index, end in counted.items() if index % self.choices == 0
        )
        answers = sum(end.usage.completion_tokens for end in counted.values())
        return TokenUsage(
            prompt_tokens=prompts, completion_tokens=answers, total_tokens=prompts + answers
        )

    async def stream(
        self, request: Request, kind: str, first: list[BaseModel], render: Render, usage: bool
    ) -> EventSourceResponse:
        """Answer as events, once an engine has begun.

        Args:
            kind: the chunks' `object`.
            first: choices that a chunk of its own each is sent of before all others.
            usage: end with a chunk of the tokens used.

        Raises:
            ServiceError, ClientDisconnect, RedisError: as `Admitted.started` says.
        """
        await self.admitted.started(request)
        events = self._events(kind, first, render, usage)
        return EventSourceResponse(events, headers=self.admitted.headers | STREAM_HEADERS)

    async def _events(
        self, kind: str, first: list[BaseModel], render: Render, usage: bool
    ) -> AsyncIterator[bytes]:
        head = {**self.head, "object": kind, **({"usage": None} if usage else {})}
        ends: dict[int, EndEvent] = {}
        for choice in first:
            yield _chunk(head, choice)
        try:
            async for found in pinging(self.admitted.answer()):
                if found is None:
                    yield KEEPALIVE_COMMENT
                    continue
                place, event = found
                index = self.index(place, event.choice)
                if isinstance(event, EndEvent):
                    ends[index] = event
                yield _chunk(head, render(index, event))
            if usage:
                used = self.usage(ends.items()).model_dump()
                yield json_event({**head, "choices": [], "usage": used})
            yield DONE
        except ServiceError as error:
            yield json_event(error_body(error), "error")


async def ask(
    context: Context,
    ticket: Ticket,
    asked: Asked,
    prefix: str,
    beginnings: list[dict[str, Any]],
    *,
    sticky: str | None,
    cut_to_fit: bool = False,
) -> Asking:
    """Pin a request to the version that its model names, and queue a task for each beginning.

    Without `sticky`, `user` decides which version of a split alias it is.

    Raises:
        ModelNotFound: it names none.
        ServiceError: as `admit` says.
    """
    key = sticky or asked.user or secrets.token_hex(16)
    name = await run_sync(served_name, context.registry, context.settings)
    ref = ref_of(name, asked.model)
    ticket.principal.require_alias(ref)
    version = await run_sync(version_of, context.registry, ref, asked.model, key)
    questions = [Question(version, beginning) for beginning in beginnings]
    admitted = await admit(
        context,
        ticket,
        questions,
        asked.sampling,
        asked,
        streamed=asked.stream,
        cut_to_fit=cut_to_fit,
    )
    head = {
        "id": admitted.tasks[0].id.replace("gen", prefix, 1),
        "created": int(time.time()),
        "model": asked.model or name,
        "system_fingerprint": version,
    }
    return Asking(admitted, head, asked.n)


def _chunk(head: dict[str, Any], choice: BaseModel) -> bytes:
    return json_event({**head, "choices": [choice.model_dump(exclude_unset=True)]})

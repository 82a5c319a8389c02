"""`/generate`: one prompt, one version, as JSON or as server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect

from contracts.errors import ServiceError, Unavailable
from contracts.generation import (
    Choice,
    EndEvent,
    GenerateRequest,
    Generation,
    Sampling,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from service.admission import Admitted, TicketOf, admit
from service.deps import Ctx, Sticky, json_only
from service.metrics import Timer
from service.openapi import GENERATED, VERSION_HEADER

log = logging.getLogger(__name__)
router = APIRouter(tags=["generate"])

DONE = format_sse_event(data_str="[DONE]")
PING_TICKS = 15
HIDDEN = {"type", "worker"}
"""Of events."""


@router.post(
    "/generate",
    response_model=Generation,
    response_model_exclude_none=True,
    dependencies=[Depends(json_only)],
    responses=GENERATED,
)
async def generate(
    asked: GenerateRequest,
    context: Ctx,
    request: Request,
    response: Response,
    ticket: TicketOf,
    sticky: Sticky = None,
) -> Generation | EventSourceResponse:
    """Continue a prompt with one version, fixed at admission and named in `X-Memit-Version`."""
    timer = Timer(context.metrics)
    sampling = Sampling(**asked.model_dump(include=set(Sampling.model_fields)))
    admitted = await admit(
        context, ticket, asked.version, sampling, sticky=sticky, prompt=asked.prompt
    )
    headers = {VERSION_HEADER: admitted.version}
    if not asked.stream:
        response.headers.update(headers)
        return await _whole(admitted, timer, request)
    start = await admitted.started(request)
    return EventSourceResponse(
        _stream(start, admitted, timer),
        headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


@dataclass
class _Parts:
    """What came of one choice so far."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: EndEvent | None = None


async def _whole(admitted: Admitted, timer: Timer, request: Request) -> Generation:
    parts = [_Parts() for _ in range(admitted.task.sampling.n)]
    async for event in admitted.answer():
        if isinstance(event, TokenEvent):
            timer.token()
            parts[event.choice].text.append(event.text)
            parts[event.choice].logprobs += event.logprobs or []
        elif isinstance(event, EndEvent):
            timer.end(event.finish_reason)
            parts[event.choice].end = event
        if await request.is_disconnected():
            raise ClientDisconnect
    return _generation(admitted, parts)


def _generation(admitted: Admitted, parts: list[_Parts]) -> Generation:
    shown = admitted.task.sampling.logprobs is not None
    ends = [part.end for part in parts if part.end is not None]
    choices = [
        Choice(
            index=index,
            text="".join(part.text),
            finish_reason=end.finish_reason,
            logprobs=part.logprobs if shown else None,
        )
        for index, (part, end) in enumerate(zip(parts, ends, strict=True))
    ]
    return Generation(
        id=admitted.task.id,
        text=choices[0].text,
        version=admitted.version,
        finish_reason=choices[0].finish_reason,
        usage=Usage(
            prompt_tokens=ends[0].usage.prompt_tokens,
            completion_tokens=sum(end.usage.completion_tokens for end in ends),
        ),
        logprobs=choices[0].logprobs,
        choices=choices if len(choices) > 1 else None,
    )


async def _stream(start: BaseModel, admitted: Admitted, timer: Timer) -> AsyncIterator[bytes]:
    hidden = HIDDEN if admitted.task.sampling.n > 1 else HIDDEN | {"choice"}
    yield _event("start", start, hidden)
    quiet = 0
    try:
        async for event in admitted.answer():
            quiet = quiet + 1 if event is None else 0
            if quiet and quiet % PING_TICKS == 0:
                yield KEEPALIVE_COMMENT
            elif isinstance(event, TokenEvent):
                timer.token()
                yield _event("token", event, hidden)
            elif isinstance(event, EndEvent):
                timer.end(event.finish_reason)
                yield _event("end", event, hidden)
        yield DONE
    except ServiceError as error:
        yield _error(error)
    except RedisError as error:
        log.warning("lost %s: %s", admitted.task.id, error)
        yield _error(Unavailable("Redis does not answer"))


def _event(name: str, data: BaseModel, hidden: set[str]) -> bytes:
    shown = data.model_dump_json(exclude=hidden, exclude_none=True)
    return format_sse_event(event=name, data_str=shown)


def _error(error: ServiceError) -> bytes:
    problem = error.problem("/generate")
    return format_sse_event(event="error", data_str=problem.model_dump_json())

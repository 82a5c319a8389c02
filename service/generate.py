"""`/generate`: one prompt, one version, as JSON or as server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect

from contracts.errors import ServiceError, Unavailable
from contracts.generation import EndEvent, GenerateRequest, Generation, Sampling, TokenEvent
from service.admission import Admitted, TicketOf, admit
from service.deps import Ctx, json_only
from service.metrics import Timer
from service.openapi import GENERATED, VERSION_HEADER

log = logging.getLogger(__name__)
router = APIRouter(tags=["generate"])

DONE = format_sse_event(data_str="[DONE]")
PING_TICKS = 15
HIDDEN = {"type", "worker", "choice", "logprobs"}
"""Of events: this endpoint has one choice, and no log-probabilities."""


@router.post(
    "/generate",
    response_model=Generation,
    dependencies=[Depends(json_only)],
    responses=GENERATED,
)
async def generate(
    asked: GenerateRequest,
    context: Ctx,
    request: Request,
    response: Response,
    ticket: TicketOf,
) -> Generation | EventSourceResponse:
    """Continue a prompt with one version, fixed at admission and named in `X-Memit-Version`."""
    timer = Timer(context.metrics)
    sampling = Sampling(**asked.model_dump(include=set(Sampling.model_fields)))
    admitted = await admit(context, ticket, asked.version, sampling, prompt=asked.prompt)
    headers = {VERSION_HEADER: admitted.version}
    if not asked.stream:
        response.headers.update(headers)
        return await _whole(admitted, timer, request)
    start = await admitted.started(request)
    return EventSourceResponse(
        _stream(start, admitted, timer),
        headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _whole(admitted: Admitted, timer: Timer, request: Request) -> Generation:
    text: list[str] = []
    async for event in admitted.answer():
        if isinstance(event, TokenEvent):
            timer.token()
            text.append(event.text)
        elif isinstance(event, EndEvent):
            timer.end(event.finish_reason)
            return Generation(
                id=admitted.task.id,
                text="".join(text),
                version=admitted.version,
                finish_reason=event.finish_reason,
                usage=event.usage,
            )
        if await request.is_disconnected():
            break
    raise ClientDisconnect


async def _stream(start: BaseModel, admitted: Admitted, timer: Timer) -> AsyncIterator[bytes]:
    yield _event("start", start)
    quiet = 0
    try:
        async for event in admitted.answer():
            quiet = quiet + 1 if event is None else 0
            if quiet and quiet % PING_TICKS == 0:
                yield KEEPALIVE_COMMENT
            elif isinstance(event, TokenEvent):
                timer.token()
                yield _event("token", event)
            elif isinstance(event, EndEvent):
                timer.end(event.finish_reason)
                yield _event("end", event)
                yield DONE
    except ServiceError as error:
        yield _error(error)
    except RedisError as error:
        log.warning("lost %s: %s", admitted.task.id, error)
        yield _error(Unavailable("Redis does not answer"))


def _event(name: str, data: BaseModel) -> bytes:
    return format_sse_event(event=name, data_str=data.model_dump_json(exclude=HIDDEN))


def _error(error: ServiceError) -> bytes:
    problem = error.problem("/generate")
    return format_sse_event(event="error", data_str=problem.model_dump_json())

"""`/generate`: one prompt, one version, as JSON or as server-sent events."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect

from contracts.errors import Problem, ServiceError, Unavailable, from_problem
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateRequest,
    GenerateTask,
    Generation,
    Sampling,
    StartEvent,
    TokenEvent,
)
from registry.registry import Registry
from service.deps import Ctx, json_only
from service.engines import RETRY_SECONDS
from service.metrics import Timer
from service.openapi import GENERATED, VERSION_HEADER

log = logging.getLogger(__name__)
router = APIRouter(tags=["generate"])

DONE = format_sse_event(data_str="[DONE]")
PING_TICKS = 15
NO_VERSION_RETRY_SECONDS = 10.0
Events = AsyncIterator[GenerateEvent | None]


@dataclass
class Ticket:
    """One request's place with the engines; given back when the answer is out or nobody waits."""

    id: str = field(default_factory=lambda: f"gen-{secrets.token_hex(10)}")
    entry: str | None = None


async def _ticket(context: Ctx) -> AsyncIterator[Ticket]:
    ticket = Ticket()
    try:
        yield ticket
    finally:
        # FastAPI runs this after the last byte, and also when the client has gone away.
        try:
            await context.engines.forget(ticket.id, ticket.entry)
        except RedisError as error:
            log.warning("the stream of %s is left to expire: %s", ticket.id, error)


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
    ticket: Annotated[Ticket, Depends(_ticket)],
) -> Generation | EventSourceResponse:
    """Continue a prompt with one version, fixed at admission and named in `X-Memit-Version`."""
    timer = Timer(context.metrics)
    task = GenerateTask(
        id=ticket.id,
        prompt=asked.prompt,
        version=await run_sync(_pin, context.registry, asked.version),
        sampling=Sampling(**asked.model_dump(include=set(Sampling.model_fields))),
        deadline=time.time() + context.settings.start_timeout,
    )
    ticket.entry = await context.engines.send(task)
    events = context.engines.events(task)
    headers = {VERSION_HEADER: task.version}
    if not asked.stream:
        response.headers.update(headers)
        return await _whole(task, events, timer, request)
    start = await _start(events, request)
    return EventSourceResponse(
        _stream(start, events, timer),
        headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def _pin(registry: Registry, ref: str) -> str:
    if registry.versions.tip() < 0:
        raise Unavailable(
            "no version yet: a worker publishes v0 when it has loaded the model",
            retry_after=NO_VERSION_RETRY_SECONDS,
        )
    return registry.versions.resolve(ref)


async def _start(events: Events, request: Request) -> StartEvent:
    """Wait for the start, so that an error before it still has a status of its own."""
    async for event in events:
        if isinstance(event, StartEvent):
            return event
        if isinstance(event, ErrorEvent):
            raise _refusal(event)
        if await request.is_disconnected():
            break
    raise ClientDisconnect


async def _whole(task: GenerateTask, events: Events, timer: Timer, request: Request) -> Generation:
    text: list[str] = []
    async for event in events:
        if isinstance(event, EndEvent):
            timer.end(event.finish_reason)
            return Generation(
                id=task.id,
                text="".join(text),
                version=task.version,
                finish_reason=event.finish_reason,
                usage=event.usage,
            )
        if isinstance(event, ErrorEvent):
            raise _refusal(event)
        if isinstance(event, TokenEvent):
            timer.token()
            text.append(event.text)
        if await request.is_disconnected():
            break
    raise ClientDisconnect


async def _stream(start: StartEvent, events: Events, timer: Timer) -> AsyncIterator[bytes]:
    yield _sse("start", start)
    quiet = 0
    try:
        async for event in events:
            quiet = quiet + 1 if event is None else 0
            if quiet and quiet % PING_TICKS == 0:
                yield KEEPALIVE_COMMENT
            elif isinstance(event, TokenEvent):
                timer.token()
                yield _sse("token", event)
            elif isinstance(event, EndEvent):
                timer.end(event.finish_reason)
                yield _sse("end", event)
                yield DONE
                return
            elif isinstance(event, ErrorEvent):
                yield _sse("error", event.problem)
                return
    except ServiceError as error:
        yield _sse("error", error.problem("/generate"))
    except RedisError as error:
        log.warning("lost %s: %s", start.id, error)
        yield _sse("error", Unavailable("Redis does not answer").problem("/generate"))


def _refusal(event: ErrorEvent) -> ServiceError:
    busy = event.problem.status in (429, 503)
    return from_problem(event.problem, retry_after=RETRY_SECONDS if busy else None)


def _sse(name: str, data: BaseModel) -> bytes:
    hidden = set() if isinstance(data, Problem) else {"type", "worker"}
    return format_sse_event(event=name, data_str=data.model_dump_json(exclude=hidden))

"""A generation on its way to an engine and back: its ticket, its pin, and what is written of it.

Nothing here knows how an answer is rendered; `service.generate` does.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Depends, Request
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect

from contracts import retry_after as after
from contracts.errors import NoVersion, ServiceError, from_problem
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    Sampling,
    StartEvent,
    TokenEvent,
)
from registry.registry import Registry
from service.deps import Context, Ctx

log = logging.getLogger(__name__)


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


TicketOf = Annotated[Ticket, Depends(_ticket)]


@dataclass(frozen=True)
class Admitted:
    """A task that engines can see, on the version that it is pinned to."""

    task: GenerateTask
    events: AsyncIterator[GenerateEvent | None]

    @property
    def version(self) -> str:
        return self.task.version

    async def started(self, request: Request) -> StartEvent:
        """Wait for the start, so that an error before it still has a status of its own.

        Raises:
            ServiceError: the engine refuses it, or none took it in time.
            ClientDisconnect: nobody waits any more.
            RedisError: Redis does not answer.
        """
        async for event in self.events:
            if isinstance(event, StartEvent):
                return event
            if isinstance(event, ErrorEvent):
                raise _refusal(event)
            if await request.is_disconnected():
                break
        raise ClientDisconnect

    async def answer(self) -> AsyncIterator[TokenEvent | EndEvent | None]:
        """What comes of it up to the end of its last choice; None now and then while nothing does.

        Raises:
            ServiceError: the engine refused it or failed, or the worker is gone.
            RedisError: Redis does not answer.
        """
        left = self.task.sampling.n
        async for event in self.events:
            if isinstance(event, ErrorEvent):
                raise _refusal(event)
            if not isinstance(event, StartEvent):
                yield event
            left -= isinstance(event, EndEvent)
            if not left:
                return


async def admit(
    context: Context,
    ticket: Ticket,
    version: str,
    sampling: Sampling,
    *,
    sticky: str | None = None,
    **beginning: Any,
) -> Admitted:
    """Pin a request to the version that `version` names now, and queue it.

    Args:
        sticky: draws the version of a split alias, the same one every time; None: any of them.
        beginning: what to go on from, as `GenerateTask` takes it.

    Raises:
        NotFound: there is no such version or alias.
        NoVersion, Unavailable: no version, or no ready worker.
        TooManyRequests: the queue is full.
        RedisError: Redis does not answer.
    """
    task = GenerateTask(
        id=ticket.id,
        version=await run_sync(_pin, context.registry, version, sticky),
        sampling=sampling,
        deadline=time.time() + context.settings.start_timeout,
        **beginning,
    )
    ticket.entry = await context.engines.send(task)
    return Admitted(task, context.engines.events(task))


def _pin(registry: Registry, ref: str, sticky: str | None) -> str:
    if registry.versions.tip() < 0:
        raise NoVersion
    return registry.versions.resolve(ref, key=sticky or secrets.token_hex(16))


def _refusal(event: ErrorEvent) -> ServiceError:
    busy = event.problem.status in (429, 503)
    return from_problem(event.problem, retry_after=after.NO_ENGINE if busy else None)

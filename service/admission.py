"""A generation on its way to engines and back: its ticket, its pins, and what is written of it.

Nothing here knows how an answer is rendered; `service.generate` and `service.openai_api` do.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Depends, Request
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect
from structlog.contextvars import bind_contextvars

from contracts import retry_after as after
from contracts.errors import Conflict, NoVersion, ServiceError, Unavailable, from_problem
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    Handling,
    StartEvent,
    TokenEvent,
    TokenLogprob,
)
from contracts.ids import VersionId, version_seq
from contracts.origin import Origin
from contracts.sampling import Sampling
from registry.registry import Registry
from service.deps import Caller, Context, Ctx, one_more_answer
from service.flight import Flight
from service.openapi import TIMING_HEADER, VERSION_HEADER
from service.principal import Principal
from service.timing import Timer

log = logging.getLogger(__name__)


@dataclass
class Ticket:
    """What one request has with the engines; given back when its answer is out or nobody waits."""

    principal: Principal
    flight: Flight | None = None
    prompts: dict[int, int] = field(default_factory=dict)
    """Tokens of each task's prompt, by its place; known once an answer has ended."""
    answers: dict[tuple[int, int], int] = field(default_factory=dict)
    """Tokens of each answer, by place and choice; of one that is cut off, at least its pieces."""

    @property
    def tokens(self) -> int:
        """All that were used so far."""
        return sum(self.prompts.values()) + sum(self.answers.values())

    def take_event(self, place: int, event: StartEvent | TokenEvent | EndEvent) -> None:
        """Count what came of the task at `place`, since it began or began anew."""
        if isinstance(event, StartEvent):
            self.answers = {key: used for key, used in self.answers.items() if key[0] != place}
            return
        answer = (place, event.choice)
        if isinstance(event, EndEvent):
            self.prompts[place] = event.usage.prompt_tokens
            self.answers[answer] = event.usage.completion_tokens
        else:
            self.answers[answer] = self.answers.get(answer, 0) + 1


async def _ticket(
    context: Ctx, caller: Caller, _: Annotated[None, Depends(one_more_answer)]
) -> AsyncIterator[Ticket]:
    await context.rates.require_tokens(caller)
    ticket = Ticket(caller)
    try:
        yield ticket
    finally:
        # FastAPI runs this after the last byte, and also when the client has gone away.
        if ticket.flight is not None:
            try:
                await ticket.flight.give_up()
            except RedisError as error:
                log.warning("the streams of a request are left to expire: %s", error)
        await context.rates.count_tokens(caller, ticket.tokens)


TicketOf = Annotated[Ticket, Depends(_ticket)]


@dataclass
class Said:
    """What came of one choice."""

    tokens: list[TokenEvent] = field(default_factory=list)
    ends: list[EndEvent] = field(default_factory=list)
    """One, once it is complete."""

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.tokens)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [one for event in self.tokens for one in event.logprobs or ()]

    @property
    def end(self) -> EndEvent:
        return self.ends[0]

    def take_event(self, event: TokenEvent | EndEvent) -> None:
        """Take what an engine wrote of this choice."""
        if isinstance(event, EndEvent):
            self.ends.append(event)
        else:
            self.tokens.append(event)


@dataclass
class Admitted:
    """Tasks that engines can see, each on the version that it is pinned to."""

    ticket: Ticket
    tasks: Sequence[GenerateTask]
    events: AsyncIterator[tuple[int, GenerateEvent] | None]
    timer: Timer

    @property
    def headers(self) -> dict[str, str]:
        """The versions that answer, and where the milliseconds so far went."""
        versions = [task.version for task in self.tasks]
        return {
            VERSION_HEADER: ", ".join(versions if len(set(versions)) > 1 else versions[:1]),
            TIMING_HEADER: self.timer.server_timing,
        }

    async def started(self, request: Request) -> None:
        """Wait for the first start, so that an error before it still has a status of its own.

        Errors of other tasks come as events of the stream.

        Raises:
            ServiceError: an engine refuses a task, or none took it in time.
            ClientDisconnect: nobody waits any more.
            RedisError: Redis does not answer.
        """
        async for found in self.events:
            if found is not None and isinstance(found[1], ErrorEvent):
                raise _refusal(found[1])
            if found is not None:
                self.timer.take_event(*found)
                return
            if await request.is_disconnected():
                break
        raise ClientDisconnect

    async def answer(self) -> AsyncIterator[tuple[int, TokenEvent | EndEvent] | None]:
        """What comes of each task, by its place, to the end; None now and then while nothing does.

        Raises:
            ServiceError: an engine refused a task or failed, or the worker is gone, or Redis.
        """
        async for found in self._heard():
            if found is None:
                yield None
                continue
            place, event = found
            if not isinstance(event, StartEvent):
                yield place, event

    async def _heard(
        self,
    ) -> AsyncIterator[tuple[int, StartEvent | TokenEvent | EndEvent] | None]:
        """As `answer`, with the starts."""
        try:
            async for found in self.events:
                if found is None:
                    yield None
                    continue
                place, event = found
                self.timer.take_event(place, event)
                if isinstance(event, ErrorEvent):
                    raise _refusal(event)
                self.ticket.take_event(place, event)
                yield place, event
        except RedisError as error:
            log.warning("lost %s: %s", [task.id for task in self.tasks], error)
            raise Unavailable("Redis does not answer", retry_after=after.REDIS) from error

    async def whole(self, request: Request) -> list[list[Said]]:
        """The choices of each task, complete.

        Raises:
            ServiceError: as `answer` says.
            ClientDisconnect: nobody waits any more.
        """
        said = [[Said() for _ in range(task.sampling.n)] for task in self.tasks]
        async for found in self._heard():
            if found is not None:
                place, event = found
                if isinstance(event, StartEvent):  # of the first worker, or of one after it
                    said[place] = [Said() for _ in said[place]]
                else:
                    said[place][event.choice].take_event(event)
            if await request.is_disconnected():
                raise ClientDisconnect
        return said


@dataclass(frozen=True)
class Question:
    """What one version shall go on from: one of the beginnings that `GenerateTask` takes."""

    version: str
    beginning: dict[str, Any]


async def admit(
    context: Context,
    ticket: Ticket,
    questions: Sequence[Question],
    sampling: Sampling,
    handling: Handling,
    *,
    streamed: bool,
    sticky: str | None = None,
    cut_to_fit: bool = False,
) -> Admitted:
    """Pin each question to the version that its name means now, and begin to queue them.

    Args:
        streamed: the answer goes out as it comes, see `Flight`.
        sticky: draws the version of a split alias, the same one every time; None: any of them.
        cut_to_fit: `max_tokens` gives way where prompt and answer do not fit.

    Raises:
        NotFound: there is no such version or alias.
        Conflict: a name means an older version than the request may have.
        NoVersion, Unavailable: no version, or no ready worker.
        TooManyRequests: the queue is full.
        RedisError: Redis does not answer.
    """
    timer = Timer(context.metrics)
    refs = [question.version for question in questions]
    pins = await run_sync(_pins, context.registry, refs, sticky)
    _require_not_older(refs, pins, handling.min_version)
    bind_contextvars(version_id=", ".join(dict.fromkeys(pins)))
    origin = Origin.here()
    tasks = [
        GenerateTask(
            id=f"gen-{secrets.token_hex(10)}",
            principal=ticket.principal.id,
            version=pin,
            sampling=sampling,
            cut_to_fit=cut_to_fit,
            priority=handling.priority,
            deadline=0.0,  # each has its own, from when it is sent
            origin=origin,
            **question.beginning,
        )
        for question, pin in zip(questions, pins, strict=True)
    ]
    ticket.flight = flight = Flight(
        context.engines, tasks, context.settings.start_timeout, streamed=streamed
    )
    await flight.begin()
    return Admitted(ticket, tasks, flight.events(), timer)


def _pins(registry: Registry, refs: Sequence[str], sticky: str | None) -> list[VersionId]:
    if registry.versions.tip() < 0:
        raise NoVersion
    key = sticky or secrets.token_hex(16)
    return [registry.versions.resolve(ref, key=key) for ref in refs]


def _require_not_older(
    refs: Sequence[str], pins: Sequence[VersionId], min_version: str | None
) -> None:
    if min_version is None:
        return
    for ref, pin in zip(refs, pins, strict=True):
        if version_seq(pin) < version_seq(min_version):
            named = "" if ref == pin else f"{ref} is "
            raise Conflict(f"{named}{pin}, which is older than min_version {min_version}")


def _refusal(event: ErrorEvent) -> ServiceError:
    busy = event.problem.status in (429, 503)
    return from_problem(event.problem, retry_after=after.NO_ENGINE if busy else None)

"""What endpoints share: the open connections of this process, and how parameters are read."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, TypedDict

from fastapi import Depends, Header, Path, Request
from redis.asyncio import Redis
from starlette.exceptions import HTTPException

from contracts.errors import FieldError, MalformedRequest, NotFound
from contracts.ids import EDIT_ID, FACT_ID
from contracts.limits import MAX_IDEMPOTENCY_CHARS, MAX_STICKY_CHARS, MAX_WAIT_SECONDS
from contracts.settings import Settings
from contracts.versions import ANY_EPOCH
from registry.registry import Registry
from service.census import EditCensus
from service.changes import Changes
from service.door import caller
from service.engines import Engines
from service.jobs import Jobs
from service.keyring import Keyring
from service.metrics import Metrics
from service.open_answers import OpenAnswers
from service.principal import Principal
from service.problems import invalid
from service.rates import Rates
from service.tokens import TokenChecks
from service.webhooks.sender import Sender


@dataclass(frozen=True)
class Context:
    """Everything that one process of the service holds open."""

    settings: Settings
    registry: Registry
    redis: Redis
    jobs: Jobs
    changes: Changes
    engines: Engines
    tokens: TokenChecks
    metrics: Metrics
    census: EditCensus
    keyring: Keyring
    rates: Rates
    webhooks: Sender
    open_answers: OpenAnswers


class State(TypedDict):
    """What the lifespan yields; requests see it as `request.state`."""

    context: Context


async def context_of(request: Request) -> Context:
    context: Context = request.state.context
    return context


Ctx = Annotated[Context, Depends(context_of)]


async def _caller(request: Request) -> Principal:
    return caller(request)


Caller = Annotated[Principal, Depends(_caller)]


async def one_more_answer(context: Ctx, caller: Caller) -> AsyncIterator[None]:
    """429 where the caller has as many answers open as it may; counted until the last byte."""
    with context.open_answers.one_more(caller):
        yield


async def json_only(request: Request) -> None:
    """415 unless the body is declared as JSON (RFC 9110, 15.5.16)."""
    declared = request.headers.get("content-type", "")
    media_type = declared.partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/([\w.-]+\+)?json", media_type):
        said = repr(media_type[:100]) if media_type else "none"
        raise HTTPException(415, f"Content-Type must be application/json, not {said}")


def _known_edit(
    edit_id: Annotated[str, Path(examples=["edit-0123456789abcdef0123"])], context: Ctx
) -> str:
    if not EDIT_ID.fullmatch(edit_id) or not context.registry.edits.exists(edit_id):
        raise NotFound(f"no edit {edit_id[:100]!r}")
    return edit_id


EditRef = Annotated[str, Depends(_known_edit)]


async def _fact_shaped(
    fact_id: Annotated[str, Path(examples=["fact-0f9a6c1d2e3b4a5f6071"])],
) -> str:
    if not FACT_ID.fullmatch(fact_id):
        raise NotFound(f"no fact {fact_id[:100]!r}")
    return fact_id


FactRef = Annotated[str, Depends(_fact_shaped)]


async def _epoch(
    if_match: Annotated[
        str | None, Header(description='ETag of the alias, `"<epoch>"`', examples=['"3"'])
    ] = None,
) -> int | str | None:
    if if_match is None or if_match.strip() == ANY_EPOCH:
        return if_match and ANY_EPOCH
    found = re.fullmatch(r'"([0-9]{1,18})"', if_match.strip())
    if found is None:
        reason = 'must be the ETag of an alias, such as "3" with its quotes, or *'
        raise invalid([FieldError(field="If-Match", reason=reason)], MalformedRequest)
    return int(found[1])


IfMatch = Annotated[int | str | None, Depends(_epoch)]


async def _wait_seconds(
    prefer: Annotated[
        list[str] | None,
        Header(description=f"`wait=N` waits for the end, at most {MAX_WAIT_SECONDS} seconds"),
    ] = None,
) -> int | None:
    # RFC 7240: a preference that is not understood is ignored, not refused.
    for preference in ",".join(prefer or []).split(","):
        found = re.fullmatch(r'\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(;.*)?', preference, re.IGNORECASE)
        if found is not None:
            return min(int(found[1]), MAX_WAIT_SECONDS)
    return None


WaitSeconds = Annotated[int | None, Depends(_wait_seconds)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_IDEMPOTENCY_CHARS,
        description="the same key and body give the same edit, however often they are sent",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]

Sticky = Annotated[
    str | None,
    Header(
        alias="X-Memit-Sticky",
        min_length=1,
        max_length=MAX_STICKY_CHARS,
        description="of a split alias the same text always gets the same version; without one each "
        "request draws",
        examples=["user-1234"],
    ),
]

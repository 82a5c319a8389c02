"""`/facts`: the ledger of what versions know, and taking a fact back."""

from __future__ import annotations

import unicodedata
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from contracts.edits import Edit, EditRequest
from contracts.errors import Conflict
from contracts.facts import LiveFact
from contracts.ids import VersionId
from contracts.limits import MAX_SUBJECT_CHARS
from contracts.versions import ACTIVE
from registry.registry import Registry
from service.deps import Caller, Ctx, FactRef, IdempotencyKey, WaitSeconds
from service.history import FactDetail, FactState, detail
from service.openapi import ACCEPTED
from service.pages import Cursor, Limit, Page, decode_cursor, encode_cursor
from service.submit import answer_edit

router = APIRouter(prefix="/facts", tags=["facts"])

VersionRef = Annotated[
    str | None,
    Query(
        max_length=100,
        description="version id, short id or alias; by default `active`",
        examples=["v1"],
    ),
]


class FactPage(Page[LiveFact]):
    """Live facts of one version, newest first."""

    version: VersionId | None = Field(
        description="the version that was looked at; none before the first",
        examples=["v1-9f3c2a71b0de"],
    )
    total: int = Field(description="facts that match, on all pages", examples=[1])


@router.get("")
def list_facts(
    context: Ctx,
    version: VersionRef = None,
    subject: Annotated[
        str | None,
        Query(max_length=MAX_SUBJECT_CHARS, description="part of the subject, in any case"),
    ] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> FactPage:
    """Facts that are live in a version, newest first; a cursor stays with its version."""
    registry = context.registry
    offset = 0
    if cursor is not None:
        pinned, place = decode_cursor("facts", cursor, (str, int))
        at: str | None = registry.versions.resolve(str(pinned))
        offset = max(0, int(place))
    else:
        at = _version(registry, version)
    if at is None:
        return FactPage(items=[], version=None, total=0)
    facts = registry.ledger.live(at)
    if subject is not None:
        wanted = _folded(subject)
        facts = [fact for fact in facts if wanted in _folded(fact.fact.subject)]
    facts.sort(key=lambda fact: -fact.since)  # stable: equal ones stay sorted by id
    end = offset + limit
    return FactPage(
        items=facts[offset:end],
        version=at,
        total=len(facts),
        next_cursor=encode_cursor("facts", [at, end]) if end < len(facts) else None,
    )


@router.get("/{fact_id}")
def get_fact(fact_id: FactRef, context: Ctx, version: VersionRef = None) -> FactDetail:
    """One fact: what brought it, how it was measured, and how it stands in a version."""
    return detail(context.registry, fact_id, _version(context.registry, version))


@router.delete("/{fact_id}", status_code=200, responses=ACCEPTED)
async def retract_fact(
    fact_id: FactRef,
    context: Ctx,
    request: Request,
    response: Response,
    caller: Caller,
    wait_seconds: WaitSeconds,
    idempotency_key: IdempotencyKey = None,
) -> Edit:
    """Take a fact back: makes an edit that retracts it, and answers as `POST /edits` does."""
    return await answer_edit(
        context,
        EditRequest(retract=[fact_id]),
        request,
        response,
        principal=caller,
        key=idempotency_key,
        if_match=None,
        wait_seconds=wait_seconds,
        require=partial(_require_live, context.registry, fact_id),
    )


def _require_live(registry: Registry, fact_id: str) -> None:
    found = detail(registry, fact_id, _version(registry, None))
    if found.state is not FactState.LIVE:
        by = f" by {found.ended_by}" if found.ended_by else ""
        raise Conflict(f"{fact_id} is not live in active: it is {found.state}{by}")


def _version(registry: Registry, ref: str | None) -> str | None:
    """The version that `ref` names; `active` may name none yet."""
    if ref is not None:
        return registry.versions.resolve(ref)
    active = registry.aliases.get(ACTIVE)
    return None if active is None else active.version


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()

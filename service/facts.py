"""`/facts`: the ledger of what versions know, and taking a fact back."""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.edits import Edit, EditRequest
from contracts.errors import Conflict, NotFound
from contracts.facts import Fact, LiveFact
from contracts.ids import FactId, VersionId
from contracts.limits import MAX_SUBJECT_CHARS
from contracts.versions import FactReport
from registry.commit import ACTIVE
from registry.registry import Registry
from service.deps import Ctx, FactRef, IdempotencyKey, WaitSeconds
from service.openapi import ACCEPTED
from service.pages import Cursor, Limit, Page, decode, encode
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


class FactState(StrEnum):
    """How a fact stands in a version."""

    LIVE = "live"
    RETRACTED = "retracted"
    SUPERSEDED = "superseded"
    ABSENT = "absent"
    """Only versions that are no ancestors know it: rejected, dry runs, branches, rolled back."""


class FactPage(Page[LiveFact]):
    """Live facts of one version, newest first."""

    version: VersionId | None = Field(
        description="the version that was looked at; none before the first",
        examples=["v1-9f3c2a71b0de"],
    )
    total: int = Field(description="facts that match, on all pages", examples=[1])


class FactDetail(BaseModel):
    """A fact, live or not, with what became of it."""

    model_config = ConfigDict(frozen=True)

    id: FactId = Field(examples=["fact-0f9a6c1d2e3b4a5f6071"])
    fact: Fact
    state: FactState = Field(description="in the version that was asked for", examples=["live"])
    edit_id: str = Field(
        description="the edit that brought it", examples=["edit-0123456789abcdef0123"]
    )
    version: VersionId = Field(
        description="the version that brought it", examples=["v1-9f3c2a71b0de"]
    )
    learned: bool = Field(
        description="greedy answer started with target_new when it was brought", examples=[True]
    )
    report: FactReport | None = Field(
        default=None, description="how it was measured in that version"
    )
    ended_by: VersionId | None = Field(
        default=None,
        description="the version that retracted or superseded it",
        examples=["v2-0b1c2d3e4f50"],
    )
    superseded_by: FactId | None = Field(
        default=None, description="the newer fact", examples=["fact-60715f4a3b2e1d6c9a0f"]
    )


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
        pinned, place = decode("facts", cursor, (str, int))
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
        next_cursor=encode("facts", [at, end]) if end < len(facts) else None,
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
    wait_seconds: WaitSeconds,
    idempotency_key: IdempotencyKey = None,
) -> Edit:
    """Take a fact back: makes an edit that retracts it, and answers as `POST /edits` does."""
    return await answer_edit(
        context,
        EditRequest(retract=[fact_id]),
        request,
        response,
        key=idempotency_key,
        if_match=None,
        wait_seconds=wait_seconds,
        require=partial(_require_live, context.registry, fact_id),
    )


def detail(registry: Registry, fact_id: str, version: str | None) -> FactDetail:
    """Everything that is known of a fact, as it stands in `version`.

    Raises:
        NotFound: no version ever had it.
    """
    brought = registry.ledger.ever(fact_id)
    if not brought:
        raise NotFound(f"no version has a fact {fact_id}")
    live = None if version is None else registry.ledger.get(fact_id, version)
    origin = registry.versions.by_seq(live.since) if live else None
    origin = origin or brought[-1]
    record = live or registry.ledger.get(fact_id, origin)
    if record is None:
        raise NotFound(f"no version has a fact {fact_id}: {origin} left it out")
    state, ended_by, superseded_by = FactState.LIVE, None, None
    if live is None:
        state, ended_by, superseded_by = _ended(registry, fact_id, version)
    report = registry.versions.get(origin).report
    measured = report.per_fact if report else []
    return FactDetail(
        id=fact_id,
        fact=record.fact,
        state=state,
        edit_id=record.edit_id,
        version=origin,
        learned=record.learned,
        report=next((one for one in measured if one.id == fact_id), None),
        ended_by=ended_by,
        superseded_by=superseded_by,
    )


def _ended(
    registry: Registry, fact_id: str, version: str | None
) -> tuple[FactState, str | None, str | None]:
    """What the newest ancestor that touched the fact did to it."""
    while version is not None:
        manifest = registry.versions.get(version)
        if fact_id in manifest.retracted:
            return FactState.RETRACTED, version, None
        for old, new in manifest.superseded:
            if old == fact_id:
                return FactState.SUPERSEDED, version, new
        version = manifest.parent
    return FactState.ABSENT, None, None


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

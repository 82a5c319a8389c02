"""What became of a fact: the version that brought it, and how it stands in another."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import NotFound
from contracts.facts import Fact
from contracts.ids import FactId, VersionId
from contracts.reports import FactReport
from registry.registry import Registry


class FactState(StrEnum):
    """How a fact stands in a version."""

    LIVE = "live"
    RETRACTED = "retracted"
    SUPERSEDED = "superseded"
    ABSENT = "absent"
    """Only versions that are no ancestors know it: rejected, dry runs, branches, rolled back."""


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

"""`/versions`: what was made of which facts, and its weights to take away."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import StreamingResponse

from contracts import retry_after as after
from contracts.diffs import VersionDiff
from contracts.errors import Unavailable
from contracts.exports import ADAPTER_RANKS
from contracts.ledgers import VersionLedger
from contracts.versions import Version
from service.checkpoint import CHECKPOINTS, AllowLoss, AsFormat, MaxRank, checkpoint
from service.deps import Ctx
from service.diff import diff
from service.ledgers import ledger_of
from service.pages import Cursor, Limit, WholePage, decode_cursor, encode_cursor, readable

router = APIRouter(prefix="/versions", tags=["versions"])

VersionRef = Annotated[
    str, Path(description="version id, short id such as `v1`, or alias", examples=["v1"])
]


@router.get("")
def list_versions(context: Ctx, limit: Limit = 20, cursor: Cursor = None) -> WholePage[Version]:
    """Versions, newest first; facts by id (`per_fact`, `missed`) are shown with one alone."""
    versions = context.registry.versions
    before = None if cursor is None else int(decode_cursor("versions", cursor, (int,))[0])
    ids, following = versions.page(limit, before)
    items, damaged = readable(ids, versions.describe, versions.damaged(limit, before))
    return WholePage(
        items=[_short(version) for version in items],
        damaged=damaged,
        next_cursor=encode_cursor("versions", None if following is None else [following]),
    )


@router.get("/{ref}")
def get_version(ref: VersionRef, context: Ctx) -> Version:
    """The manifest of one version, and its full report once there is one."""
    versions = context.registry.versions
    return versions.describe(versions.resolve(ref))


@router.get("/{ref}/ledger")
def get_ledger(ref: VersionRef, context: Ctx) -> VersionLedger:
    """All that a version says in one document, for `POST /rebase` of another service."""
    registry = context.registry
    return ledger_of(registry, registry.versions.resolve(ref))


@router.get("/{ref}/checkpoint", response_class=StreamingResponse, responses=CHECKPOINTS)
def get_checkpoint(
    ref: VersionRef,
    context: Ctx,
    format: AsFormat = "delta",  # noqa: A002 - the name in the query
    max_rank: MaxRank = ADAPTER_RANKS[-1],
    allow_loss: AllowLoss = False,
) -> StreamingResponse:
    """Download a version, every byte of it verified before the first is sent."""
    registry = context.registry
    version = registry.versions.resolve(ref)
    if not registry.versions.has_weights(version):
        context.jobs.rebuild(version)
        raise Unavailable(
            f"the weights of {version} were removed to save space and are solved again now",
            retry_after=after.VERSION_NOT_LOADED,
        )
    return checkpoint(registry, version, format, max_rank, allow_loss)


@router.get("/{a}/diff/{b}")
def get_diff(
    a: VersionRef, b: VersionRef, context: Ctx, limit: Limit = 100, cursor: Cursor = None
) -> VersionDiff:
    """Facts added, superseded and retracted from a to b, and how figures moved.

    Any two versions; a cursor stays with those that it was given for.
    """
    registry, offset = context.registry, 0
    if cursor is not None:
        before, after, place = decode_cursor("changes", cursor, (str, str, int))
        a, b, offset = str(before), str(after), max(0, int(place))
    a, b = registry.versions.resolve(a), registry.versions.resolve(b)
    found, more = diff(registry, a, b, offset, limit)
    following = encode_cursor("changes", [a, b, offset + limit] if more else None)
    return found.model_copy(update={"next_cursor": following})


def _short(version: Version) -> Version:
    report, full = version.report, version.full_report
    return version.model_copy(
        update={
            "report": report and report.model_copy(update={"per_fact": []}),
            "full_report": full and full.model_copy(update={"missed": []}),
        }
    )

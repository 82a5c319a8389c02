"""`/aliases`: promote, roll back, canary, split; a move is a compare-and-swap on the epoch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Response

from contracts.errors import FieldError, NotFound, PreconditionFailed, PreconditionRequired
from contracts.ids import VersionId
from contracts.versions import ANY_EPOCH, AliasPeriod, AliasRecord, AliasUpdate
from registry.registry import Registry
from service.deps import Caller, Ctx, IfMatch, json_only
from service.pages import Cursor, Limit, WholePage, decode_cursor, encode_cursor, readable
from service.problems import invalid

router = APIRouter(prefix="/aliases", tags=["aliases"])

AliasRef = Annotated[str, Path(description="name of an alias", examples=["active"])]
ETAG = {
    "ETag": {
        "description": "the epoch, for `If-Match`",
        "schema": {"type": "string"},
        "example": '"3"',
    }
}


@router.get("")
def list_aliases(context: Ctx) -> list[AliasRecord]:
    """All aliases by name, without one whose newest epoch is damaged: `GET` it, and it says so."""
    return context.registry.aliases.sound()


@router.get("/{name}", responses={200: {"headers": ETAG}})
def get_alias(name: AliasRef, context: Ctx, response: Response) -> AliasRecord:
    """Where an alias points; its `ETag` is its epoch."""
    record = context.registry.aliases.get(name)
    if record is None:
        raise NotFound(f"no alias {name[:100]!r}")
    response.headers["ETag"] = _etag(record)
    return record


@router.get("/{name}/history")
def get_history(
    name: AliasRef, context: Ctx, limit: Limit = 20, cursor: Cursor = None
) -> WholePage[AliasPeriod]:
    """What an alias named, newest first: from when, until when, and by which edit."""
    aliases = context.registry.aliases
    if not aliases.epoch(name):
        raise NotFound(f"no alias {name[:100]!r}")
    kind = f"epochs of {name}"
    before = None if cursor is None else int(decode_cursor(kind, cursor, (int,))[0])
    periods, following = aliases.page(name, limit, before)
    return WholePage(
        items=periods,
        damaged=readable((), str, aliases.damaged(name, limit, before))[1],
        next_cursor=encode_cursor(kind, None if following is None else [following]),
    )


@router.put(
    "/{name}",
    dependencies=[Depends(json_only)],
    responses={200: {"headers": ETAG}, 201: {"model": AliasRecord, "headers": ETAG}},
)
def put_alias(
    name: AliasRef,
    asked: AliasUpdate,
    context: Ctx,
    caller: Caller,
    response: Response,
    if_match: IfMatch,
    if_none_match: Annotated[
        str | None, Header(description="`*`: only if there is no such alias yet", examples=["*"])
    ] = None,
) -> AliasRecord:
    """Point an alias at a version, or split it among several: 200, or 201 for a new alias."""
    caller.require_alias(name)
    registry = context.registry
    # Of one whose newest epoch is damaged the number is known: moving it on is how it is mended.
    found = registry.aliases.epoch(name)
    epoch = _expected(name, found, if_match, if_none_match)
    if asked.split is None:
        to: str | dict[VersionId, int] = registry.versions.resolve(str(asked.version))
    else:
        to = _resolved(registry, asked.split)
    record = registry.aliases.move(name, to, epoch, principal=caller.id)
    context.jobs.nudge(name)
    response.status_code = 200 if found else 201
    response.headers["ETag"] = _etag(record)
    return record


def _resolved(registry: Registry, split: dict[str, int]) -> dict[VersionId, int]:
    """The weights by full id.

    Raises:
        NotFound: one of them names nothing.
        InvalidRequest: one is a split alias itself, or two name the same version.
    """
    named: dict[VersionId, str] = {}
    errors = []
    for ref in split:
        version = registry.versions.resolve(ref)
        record = registry.aliases.get(ref)
        if record is not None and record.split is not None:
            errors.append(_wrong(ref, "is an alias with a split: name its versions instead"))
        elif version in named:
            errors.append(_wrong(ref, f"names the same version as {named[version]}: {version}"))
        named.setdefault(version, ref)
    if errors:
        raise invalid(errors)
    return {version: split[ref] for version, ref in named.items()}


def _wrong(ref: str, reason: str) -> FieldError:
    return FieldError(field=f"/split/{ref}", reason=reason)


def _expected(name: str, epoch: int, if_match: int | str | None, if_none_match: str | None) -> int:
    """The epoch to move from; 0 for an alias that is not there.

    Args:
        epoch: the one that the alias is at, 0 if it is not there.

    Raises:
        PreconditionRequired: the alias is there, and the request does not say at which epoch.
        PreconditionFailed: it is at another epoch, or not there, or there against `If-None-Match`.
    """
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise invalid([FieldError(field="If-None-Match", reason="must be *")])
        if epoch:
            raise PreconditionFailed(f"alias {name} is there already, at epoch {epoch}")
    if if_match is None:
        if epoch:
            reason = f'is required: alias {name} is there already, send If-Match: "{epoch}"'
            raise invalid([FieldError(field="If-Match", reason=reason)], PreconditionRequired)
    elif not epoch:
        raise PreconditionFailed(f"there is no alias {name[:100]!r}, If-Match says {if_match}")
    elif if_match not in (epoch, ANY_EPOCH):
        raise PreconditionFailed(f"alias {name} is at epoch {epoch}, If-Match says {if_match}")
    return epoch


def _etag(record: AliasRecord) -> str:
    return f'"{record.epoch}"'

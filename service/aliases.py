"""`/aliases`: promote, roll back, canary; every move is a compare-and-swap on the epoch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Response

from contracts.errors import FieldError, NotFound, PreconditionFailed, PreconditionRequired
from contracts.versions import ANY_EPOCH, AliasRecord, AliasUpdate
from service.deps import Ctx, IfMatch, json_only
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
    """All aliases, by name."""
    aliases = context.registry.aliases
    records = (aliases.get(name) for name in aliases.names())
    return [record for record in records if record is not None]


@router.get("/{name}", responses={200: {"headers": ETAG}})
def get_alias(name: AliasRef, context: Ctx, response: Response) -> AliasRecord:
    """Where an alias points; its `ETag` is its epoch."""
    record = context.registry.aliases.get(name)
    if record is None:
        raise NotFound(f"no alias {name[:100]!r}")
    response.headers["ETag"] = _etag(record)
    return record


@router.put(
    "/{name}",
    dependencies=[Depends(json_only)],
    responses={200: {"headers": ETAG}, 201: {"model": AliasRecord, "headers": ETAG}},
)
def put_alias(
    name: AliasRef,
    asked: AliasUpdate,
    context: Ctx,
    response: Response,
    if_match: IfMatch,
    if_none_match: Annotated[
        str | None, Header(description="`*`: only if there is no such alias yet", examples=["*"])
    ] = None,
) -> AliasRecord:
    """Point an alias at a version: 200, or 201 for a new alias."""
    registry = context.registry
    found = registry.aliases.get(name)
    epoch = _expected(name, found, if_match, if_none_match)
    version = registry.versions.resolve(asked.version)
    record = registry.aliases.move(name, version, epoch)
    context.jobs.nudge(name)
    response.status_code = 200 if found else 201
    response.headers["ETag"] = _etag(record)
    return record


def _expected(
    name: str, found: AliasRecord | None, if_match: int | str | None, if_none_match: str | None
) -> int:
    """The epoch to move from; 0 for an alias that is not there.

    Raises:
        PreconditionRequired: the alias is there, and the request does not say at which epoch.
        PreconditionFailed: it is at another epoch, or not there, or there against `If-None-Match`.
    """
    epoch = found.epoch if found else 0
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise invalid([FieldError(field="If-None-Match", reason="must be *")])
        if found:
            raise PreconditionFailed(f"alias {name} is there already, at epoch {epoch}")
    if if_match is None:
        if found:
            reason = f'is required: alias {name} is there already, send If-Match: "{epoch}"'
            raise invalid([FieldError(field="If-Match", reason=reason)], PreconditionRequired)
    elif found is None:
        raise PreconditionFailed(f"there is no alias {name[:100]!r}, If-Match says {if_match}")
    elif if_match not in (epoch, ANY_EPOCH):
        raise PreconditionFailed(f"alias {name} is at epoch {epoch}, If-Match says {if_match}")
    return epoch


def _etag(record: AliasRecord) -> str:
    return f'"{record.epoch}"'

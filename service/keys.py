"""`/keys`: make, list and revoke keys of the API."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from contracts.keys import Key, KeyRequest, NewKey
from service.deps import Caller, Ctx, json_only

router = APIRouter(prefix="/keys", tags=["keys"])

KeyRef = Annotated[str, Path(description="id of a key", examples=["key-0123456789abcdef"])]


@router.post("", status_code=201, dependencies=[Depends(json_only)])
def post_key(asked: KeyRequest, context: Ctx, caller: Caller, response: Response) -> NewKey:
    """Make a key; this answer alone shows it."""
    response.headers["Cache-Control"] = "no-store"
    made = context.registry.keys.create(asked, caller.id)
    context.jobs.nudge(made.id)
    return made


@router.get("")
def list_keys(context: Ctx) -> list[Key]:
    """All keys, the newest first, those that are revoked or expired too."""
    return context.registry.keys.all()


@router.delete("/{key_id}")
def revoke_key(key_id: KeyRef, context: Ctx, caller: Caller) -> Key:
    """End a key for good; every process of the service refuses it within 5 seconds."""
    over = context.registry.keys.revoke(key_id, caller.id)
    context.jobs.nudge(over.id)
    return over

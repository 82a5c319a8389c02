"""`/rebase`: the facts of a version of another registry, written onto this one's untouched base."""

from __future__ import annotations

import re
from functools import partial

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from contracts.edits import Edit, EditRequest
from contracts.errors import FieldError, InvalidRequest
from contracts.ledgers import VersionLedger
from contracts.rebase import RebaseRequest
from service.deps import Caller, Ctx, IdempotencyKey, IfMatch, WaitSeconds, json_only
from service.ledgers import source_of
from service.openapi import ACCEPTED
from service.problems import invalid
from service.submit import answer_edit

router = APIRouter(prefix="/rebase", tags=["edits"])

UNTOUCHED = "v0"
"""What an edit starts from so that its version holds the ledger's facts and no others."""


@router.post("", status_code=200, responses=ACCEPTED, dependencies=[Depends(json_only)])
async def post_rebase(
    asked: RebaseRequest,
    context: Ctx,
    request: Request,
    response: Response,
    caller: Caller,
    wait_seconds: WaitSeconds,
    if_match: IfMatch,
    idempotency_key: IdempotencyKey = None,
) -> Edit:
    """Write a ledger's facts, all and no others: makes an edit, answers as `POST /edits` does."""
    ledger = asked.ledger
    options = {name: value for name, value in asked if name != "ledger"}
    facts = [live.fact for live in ledger.facts]
    try:
        return await answer_edit(
            context,
            EditRequest(facts=facts, base=UNTOUCHED, **options),
            request,
            response,
            principal=caller,
            key=idempotency_key,
            if_match=if_match,
            wait_seconds=wait_seconds,
            require=partial(_require_own_ids, ledger),
            source=await run_sync(source_of, ledger),
        )
    except InvalidRequest as refused:
        raise invalid([_in_ledger(error) for error in refused.errors]) from None


def _require_own_ids(ledger: VersionLedger) -> None:
    errors = [
        FieldError(
            field=f"/facts/{index}/id", reason=f"must be {live.fact.id} for this fact", index=index
        )
        for index, live in enumerate(ledger.facts)
        if live.id != live.fact.id
    ]
    if errors:
        raise invalid(errors)


def _in_ledger(error: FieldError) -> FieldError:
    """What is said of an edit's facts, said of the ledger's."""
    place = re.sub(r"^/facts/(\d+)/(?!id$)", r"/facts/\1/fact/", error.field)
    return error.model_copy(
        update={
            "field": f"/ledger{place}" if place.startswith("/facts") else place,
            "reason": error.reason.replace("/facts/", "/ledger/facts/"),
        }
    )

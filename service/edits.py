"""`/edits`: post facts, follow an edit to its end, cancel it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from contracts.edits import Edit, EditRequest, EditState
from contracts.errors import Conflict
from contracts.rebase import RebaseComparison
from service.comparison import compare
from service.deps import (
    Caller,
    Ctx,
    EditRef,
    IdempotencyKey,
    IfMatch,
    WaitSeconds,
    json_only,
    one_more_answer,
)
from service.openapi import ACCEPTED
from service.pages import Cursor, Limit, WholePage, decode_cursor, encode_cursor, readable
from service.progress import follow, latest
from service.submit import answer_edit

router = APIRouter(prefix="/edits", tags=["edits"])


@router.post("", status_code=200, responses=ACCEPTED, dependencies=[Depends(json_only)])
async def post_edit(
    asked: EditRequest,
    context: Ctx,
    request: Request,
    response: Response,
    caller: Caller,
    wait_seconds: WaitSeconds,
    if_match: IfMatch,
    idempotency_key: IdempotencyKey = None,
) -> Edit:
    """Add and retract facts; answers 202 at once, or 200 if it ends within `Prefer: wait=N`."""
    return await answer_edit(
        context,
        asked,
        request,
        response,
        principal=caller,
        key=idempotency_key,
        if_match=if_match,
        wait_seconds=wait_seconds,
    )


@router.get("")
def list_edits(context: Ctx, limit: Limit = 20, cursor: Cursor = None) -> WholePage[Edit]:
    """Edits, newest first; their reports come without `per_fact`, which one edit alone shows."""
    edits = context.registry.edits
    before = None if cursor is None else int(decode_cursor("edits", cursor, (int,))[0])
    ids, following = edits.page(limit, before)
    items, damaged = readable(ids, edits.describe, edits.damaged(limit, before))
    return WholePage(
        items=[_short(edit) for edit in items],
        damaged=damaged,
        next_cursor=encode_cursor("edits", None if following is None else [following]),
    )


@router.get("/{edit_id}")
async def get_edit(edit_id: EditRef, context: Ctx) -> Edit:
    """One edit, with its progress while it runs."""
    edit = await run_sync(context.registry.edits.describe, edit_id)
    if edit.state is EditState.RUNNING:
        edit.progress = await latest(context.redis, edit_id)
    return edit


@router.get(
    "/{edit_id}/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(one_more_answer)],
)
async def edit_events(edit_id: EditRef, context: Ctx) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `progress` while it runs, and one `end` with the edit."""
    with context.changes.watch(edit_id) as watch:
        async for progress in follow(context.redis, context.registry.edits, edit_id, watch):
            yield ServerSentEvent(event="progress", data=progress)
    edit = await run_sync(context.registry.edits.describe, edit_id)
    yield ServerSentEvent(event="end", data=edit)


@router.get("/{edit_id}/rebase")
def get_rebase(edit_id: EditRef, context: Ctx) -> RebaseComparison:
    """Of an edit that `POST /rebase` made: how source and target fare, and where they differ."""
    return compare(context.registry, edit_id)


@router.delete("/{edit_id}", responses=ACCEPTED)
def cancel_edit(edit_id: EditRef, context: Ctx, caller: Caller, response: Response) -> Edit:
    """Cancel: 200 if it was still waiting, 202 if its worker has yet to stop, 409 if it ended."""
    edits = context.registry.edits
    end = edits.end(edit_id)
    if end is not None:
        raise Conflict(f"{edit_id} is {end.state} already: it cannot be cancelled any more")
    edits.request_cancel(edit_id, caller.id)
    edit = edits.describe(edit_id)
    if not edit.state.final:
        response.status_code = 202
        response.headers["Location"] = f"/edits/{edit_id}"
    context.jobs.nudge(edit_id)
    return edit


def _short(edit: Edit) -> Edit:
    if edit.report is not None:
        edit.report = edit.report.model_copy(update={"per_fact": []})
    return edit

"""Taking an edit in: once with each idempotency key, kept first, then queued."""

from __future__ import annotations

import time
from collections.abc import Callable

from anyio.to_thread import run_sync
from fastapi import Request, Response
from structlog.contextvars import bind_contextvars

from contracts import retry_after as after
from contracts.edits import Edit, EditRequest
from contracts.ids import digest_of
from contracts.ledgers import RebaseSource
from service.accept import checked
from service.deps import Context
from service.principal import Principal

DISCONNECT_SECONDS = 1.0
"""How often it is asked whether a waiting client is still there."""


async def answer_edit(
    context: Context,
    asked: EditRequest,
    request: Request,
    response: Response,
    *,
    principal: Principal,
    key: str | None,
    if_match: int | str | None,
    wait_seconds: int | None,
    require: Callable[[], None] | None = None,
    source: RebaseSource | None = None,
) -> Edit:
    """Accept what is `asked` and answer 202 with `Location`, or 200 if it ends while we wait.

    `require` raises what else stands against the edit, unless it was accepted before. `source` is
    where its facts are from, if they are a ledger's.

    Raises:
        ServiceError: as `checked` or `require`, or the key was used with another body, or the
            principal may not move `active`.
    """
    if asked.activate is not False:
        principal.require_activation()
    edit_id = await run_sync(_submit, context, asked, principal.id, key, if_match, require, source)
    bind_contextvars(edit_id=edit_id)
    deadline = time.monotonic() + (wait_seconds or 0)
    edit = await run_sync(context.registry.edits.describe, edit_id)
    with context.changes.watch(edit_id) as watch:
        while not edit.state.final and (left := deadline - time.monotonic()) > 0:
            if await watch.due(min(left, DISCONNECT_SECONDS)):
                edit = await run_sync(context.registry.edits.describe, edit_id)
            elif await request.is_disconnected():
                break
    if wait_seconds is not None:
        response.headers["Preference-Applied"] = f"wait={wait_seconds}"
    response.headers["Location"] = f"/edits/{edit_id}"
    if wait_seconds is None or not edit.state.final:
        response.status_code = 202
        response.headers["Retry-After"] = str(round(after.EDIT_RUNNING))
    return edit


def _submit(
    context: Context,
    asked: EditRequest,
    principal: str,
    key: str | None,
    if_match: int | str | None,
    require: Callable[[], None] | None,
    source: RebaseSource | None,
) -> str:
    """Id of the edit that stands for this request; it is kept before it is queued."""
    edits = context.registry.edits
    # Of the source the figures do not count: its full report may have come between two tries.
    origin = [source.standing.version] if source else []
    body_digest = digest_of([asked.model_dump(mode="json"), if_match, *origin])
    known = None if key is None else edits.known(key, body_digest, principal)
    if known is None:
        if require is not None:
            require()
        edit = checked(context, asked, principal, if_match, source)
    else:
        # A replay is not checked again: what it asks for may have been done by now. Accepting the
        # same edit again completes an acceptance that a crash cut short.
        edit = edits.get(known)
    edit_id, new = edits.accept(edit, key, body_digest)
    if new and edits.end(edit_id) is None:
        context.jobs.enqueue(edit_id)
    return edit_id

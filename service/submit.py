"""Taking an edit in: once with each idempotency key, kept first, then queued."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync
from fastapi import Request, Response

from contracts.edits import Edit, EditRequest
from contracts.errors import FieldError
from contracts.ids import digest_of
from registry.acceptance import Idempotency
from registry.records import read
from registry.registry import Registry
from service.accept import checked
from service.deps import Context
from service.problems import invalid

POLL_SECONDS = 0.1
RETRY_SECONDS = 2


async def answer_edit(
    context: Context,
    asked: EditRequest,
    request: Request,
    response: Response,
    *,
    key: str | None,
    if_match: int | str | None,
    wait_seconds: int | None,
    require: Callable[[], None] | None = None,
) -> Edit:
    """Accept what is `asked` and answer 202 with `Location`, or 200 if it ends while we wait.

    `require` raises what else stands against the edit, unless it was accepted before.

    Raises:
        ServiceError: as `checked` or `require`, or the key was used with another body.
    """
    edit_id = await run_sync(_submit, context, asked, key, if_match, require)
    deadline = time.monotonic() + (wait_seconds or 0)
    edit = await run_sync(context.registry.edits.describe, edit_id)
    while (
        not edit.state.final and time.monotonic() < deadline and not await request.is_disconnected()
    ):
        await anyio.sleep(POLL_SECONDS)
        if await run_sync(context.registry.edits.end, edit_id) is not None:
            edit = await run_sync(context.registry.edits.describe, edit_id)
    if wait_seconds is not None:
        response.headers["Preference-Applied"] = f"wait={wait_seconds}"
    response.headers["Location"] = f"/edits/{edit_id}"
    if wait_seconds is None or not edit.state.final:
        response.status_code = 202
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return edit


def _submit(
    context: Context,
    asked: EditRequest,
    key: str | None,
    if_match: int | str | None,
    require: Callable[[], None] | None,
) -> str:
    """Id of the edit that stands for this request; it is kept before it is queued."""
    edits = context.registry.edits
    body_digest = digest_of([asked.model_dump(mode="json"), if_match])
    known = None if key is None else _replayed(context.registry, key, body_digest)
    if known is None:
        if require is not None:
            require()
        edit = checked(context, asked, if_match)
    else:
        # A replay is not checked again: what it asks for may have been done by now. Accepting the
        # same edit again completes an acceptance that a crash cut short.
        edit = edits.get(known)
    edit_id, new = edits.accept(edit, key, body_digest)
    if new and edits.end(edit_id) is None:
        context.jobs.enqueue(edit_id)
    return edit_id


def _replayed(registry: Registry, key: str, body_digest: str) -> str | None:
    """Id of the edit that came first with this key; None if the key is new.

    Raises:
        InvalidRequest: it came with another body.
    """
    name = hashlib.sha256(key.encode()).hexdigest()
    record = read(registry.store, Idempotency, f"idempotency/{name}.json")
    if record is None:
        return None
    if record.body_digest != body_digest:
        reason = "was used before with another body"
        raise invalid([FieldError(field="Idempotency-Key", reason=reason)])
    return record.edit_id

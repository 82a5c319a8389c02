"""`/audit`: who changed what; and the task that keeps the log up to date."""

from __future__ import annotations

import logging

from anyio.to_thread import run_sync
from fastapi import APIRouter

from contracts.audit import AuditRecord
from registry.audit import Audit
from service.changes import ANYTHING, Changes
from service.deps import Ctx
from service.pages import Cursor, Limit, Page, decode_cursor, encode_cursor

log = logging.getLogger(__name__)
router = APIRouter(prefix="/audit", tags=["keys"])

EVERY_SECONDS = 60.0
"""Between two looks at the registry where Redis brings no news."""


@router.get("")
def list_audit(context: Ctx, limit: Limit = 20, cursor: Cursor = None) -> Page[AuditRecord]:
    """Records of the audit log, newest first; what was done until now is in it."""
    audit = context.registry.audit
    before = None if cursor is None else int(decode_cursor("audit", cursor, (int,))[0])
    while cursor is None and not audit.catch_up():
        pass
    records, following = audit.page(limit, before)
    return Page(
        items=records,
        next_cursor=encode_cursor("audit", None if following is None else [following]),
    )


async def keep(audit: Audit, changes: Changes) -> None:
    """Write to the log what was done, after news of it and now and then, until cancelled."""
    with changes.watch(ANYTHING, EVERY_SECONDS) as watch:
        while True:
            if await watch.due(EVERY_SECONDS):
                try:
                    while not await run_sync(audit.catch_up):
                        pass
                except Exception:
                    # Whatever it is, requests go on and nothing is lost: what is to be written
                    # stays in the registry.
                    log.exception("the audit log is behind")

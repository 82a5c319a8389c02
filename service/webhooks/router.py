"""`/webhooks`: make, list, delete and try webhooks, and see what was delivered."""

from __future__ import annotations

import secrets
import time
from typing import Annotated
from urllib.parse import urlsplit

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Path, Response

from contracts.errors import Conflict, FieldError
from contracts.webhooks import (
    Delivery,
    EventType,
    NewWebhook,
    Sent,
    Webhook,
    WebhookRecord,
    WebhookRequest,
)
from service.deps import Caller, Context, Ctx, json_only
from service.pages import Cursor, Limit, Page, decode_cursor, encode_cursor
from service.problems import invalid
from service.webhooks.events import body_of
from service.webhooks.peers import allowed, literal
from service.webhooks.sender import Message

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

WebhookRef = Annotated[
    str, Path(description="id of a webhook", examples=["webhook-0123456789abcdef"])
]


@router.post("", status_code=201, dependencies=[Depends(json_only)])
def post_webhook(
    asked: WebhookRequest, context: Ctx, caller: Caller, response: Response
) -> NewWebhook:
    """Make a webhook; this answer alone shows its secret. It gets what happens from now on."""
    address = literal(urlsplit(asked.url).hostname or "")
    if address is not None and not allowed(address, context.settings.webhook_allow_private):
        reason = f"is at {address}, which is not a public address"
        raise invalid([FieldError(field="/url", reason=reason)])
    response.headers["Cache-Control"] = "no-store"
    made = context.registry.webhooks.create(asked, caller.id)
    context.jobs.nudge(made.id)
    return made


@router.get("")
def list_webhooks(context: Ctx) -> list[Webhook]:
    """All webhooks, the newest first, those that are over too."""
    return context.registry.webhooks.all()


@router.delete("/{webhook_id}")
def delete_webhook(webhook_id: WebhookRef, context: Ctx, caller: Caller) -> Webhook:
    """End a webhook for good; what was not delivered yet is not sent any more."""
    over = context.registry.webhooks.end(webhook_id, caller.id, "deleted")
    context.jobs.nudge(over.id)
    return over


@router.post("/{webhook_id}/test")
async def test_webhook(webhook_id: WebhookRef, context: Ctx) -> Sent:
    """Send an event of the type `ping` at once, and say what came back; it is not sent again."""
    webhook = await run_sync(_live, context, webhook_id)
    body = body_of(EventType.PING, time.time(), {"webhook": webhook.id})
    message = Message(f"event-{secrets.token_hex(10)}", EventType.PING, body)
    return (await context.webhooks.send(webhook, message)).sent


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: WebhookRef, context: Ctx, limit: Limit = 20, cursor: Cursor = None
) -> Page[Delivery]:
    """Attempts to deliver events, newest first."""
    deliveries = context.registry.webhooks.deliveries(webhook_id)
    kind = f"deliveries of {webhook_id}"
    before = None if cursor is None else int(decode_cursor(kind, cursor, (int,))[0])
    attempts, following = deliveries.page(limit, before)
    return Page(
        items=attempts,
        next_cursor=encode_cursor(kind, None if following is None else [following]),
    )


def _live(context: Context, webhook_id: str) -> WebhookRecord:
    webhook = context.registry.webhooks.get(webhook_id)
    if context.registry.webhooks.is_over(webhook_id):
        raise Conflict(f"{webhook_id} is over: nothing is sent to it any more")
    return webhook

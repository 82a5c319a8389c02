"""What each record of the registry says was done: from a file's name and bytes to a `Change`."""

from __future__ import annotations

from urllib.parse import urlsplit

from contracts.audit import AuditAction, Change
from contracts.edits import AcceptedEdit, EditEnd, EditState, EditStep
from contracts.keys import KeyRecord, Revocation
from contracts.versions import AliasRecord
from contracts.webhooks import WebhookEnd, WebhookRecord
from registry.records import decode_record


def change_of(source: str, data: bytes) -> Change:
    """The change that the record `data` under the key `source` stands for.

    Raises:
        RecordDamaged: it cannot be read.
        ValueError: no such record stands for a change.
    """
    match source.split("/"):
        case ["edits", edit_id, "request.json"]:
            return _accepted(decode_record(AcceptedEdit, source, data))
        case ["edits", edit_id, "end.json"]:
            return _ended(edit_id, decode_record(EditEnd, source, data))
        case ["edits", edit_id, _]:
            return _cancelled(edit_id, decode_record(EditStep, source, data))
        case ["aliases", _, _]:
            return _moved(decode_record(AliasRecord, source, data))
        case ["keys", _, "key.json"]:
            return _made(decode_record(KeyRecord, source, data))
        case ["keys", key_id, "revoked.json"]:
            return _revoked(key_id, decode_record(Revocation, source, data))
        case ["webhooks", _, "webhook.json"]:
            return _webhook_made(decode_record(WebhookRecord, source, data))
        case ["webhooks", webhook_id, "end.json"]:
            return _webhook_ended(webhook_id, decode_record(WebhookEnd, source, data))
        case _:
            raise ValueError(f"{source} stands for no change")


def _accepted(edit: AcceptedEdit) -> Change:
    asked = edit.request
    parts = [f"{len(asked.facts)} facts", f"{len(asked.retract)} retracted"]
    if edit.rebased_from is not None:
        parts.append(f"rebased from {edit.rebased_from.standing.version}")
    return Change(
        action=AuditAction.EDIT_ACCEPTED,
        subject=edit.id,
        principal=edit.principal,
        at=edit.accepted_at,
        detail=", ".join(parts),
    )


def _cancelled(edit_id: str, step: EditStep) -> Change:
    return Change(
        action=AuditAction.CANCEL_REQUESTED,
        subject=edit_id,
        principal=step.principal,
        at=step.at,
        detail="",
    )


def _ended(edit_id: str, end: EditEnd) -> Change:
    version = f": {end.version}" if end.version else ""
    return Change(
        action=AuditAction.EDIT_ENDED,
        subject=edit_id,
        principal=edit_id,
        at=end.at,
        detail=f"{end.state.value}{version}",
    )


def state_told(change: Change) -> EditState:
    """How the edit ended of which `_ended` made this change."""
    return EditState(change.detail.partition(":")[0])


def _moved(record: AliasRecord) -> Change:
    names = record.version
    if record.split is not None:
        names = ", ".join(f"{version}={weight}" for version, weight in record.split.items())
    return Change(
        action=AuditAction.ALIAS_MOVED,
        subject=record.name,
        principal=record.principal or record.edit_id,
        at=record.at,
        detail=f"epoch {record.epoch}: {names}",
    )


def _made(key: KeyRecord) -> Change:
    aliases = "" if key.aliases is None else f" on {', '.join(key.aliases)}"
    return Change(
        action=AuditAction.KEY_MADE,
        subject=key.id,
        principal=key.created_by,
        at=key.created_at,
        detail=f"{key.name}: {', '.join(key.scopes)}{aliases}",
    )


def _revoked(key_id: str, revocation: Revocation) -> Change:
    return Change(
        action=AuditAction.KEY_REVOKED,
        subject=key_id,
        principal=revocation.by,
        at=revocation.at,
        detail="",
    )


def _webhook_made(webhook: WebhookRecord) -> Change:
    # Of the URL its host alone: a path may be a secret of the receiver's.
    return Change(
        action=AuditAction.WEBHOOK_MADE,
        subject=webhook.id,
        principal=webhook.created_by,
        at=webhook.created_at,
        detail=f"{urlsplit(webhook.url).hostname}: {', '.join(webhook.events)}",
    )


def _webhook_ended(webhook_id: str, end: WebhookEnd) -> Change:
    return Change(
        action=AuditAction.WEBHOOK_ENDED,
        subject=webhook_id,
        principal=end.by,
        at=end.at,
        detail=end.reason,
    )

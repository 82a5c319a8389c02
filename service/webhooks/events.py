"""What an event says: ids and figures, no text that a user wrote."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel

from contracts.ids import canonical_json
from contracts.versions import AliasRecord
from contracts.webhooks import AliasEventData, EditEventData, EventType
from registry.deliveries import Due
from registry.errors import RecordDamaged
from registry.records import decode_record
from registry.registry import Registry
from service.webhooks.sender import Message

_FIGURES = {"success", "efficacy", "paraphrase", "specificity", "perplexity_ratio", "kl"}


def message_of(registry: Registry, due: Due) -> Message:
    """The message for an event.

    Raises:
        RegistryError: a record that it tells of cannot be read.
        NotFound: one is gone.
    """
    change = due.change
    data = (
        _moved(registry, change.source)
        if due.type is EventType.ALIAS_MOVED
        else _ended(registry, change.subject)
    )
    return Message(due.id, due.type, body_of(due.type, change.at, data.model_dump(mode="json")))


def body_of(kind: EventType, at: float, data: dict[str, object]) -> bytes:
    """The JSON of an event.

    Args:
        at: unix seconds when it happened.
    """
    when = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    return canonical_json({"type": kind.value, "timestamp": when, "data": data})


def _ended(registry: Registry, edit_id: str) -> BaseModel:
    edit = registry.edits.describe(edit_id)
    report = edit.report
    figures = {} if report is None else report.model_dump(include=_FIGURES)
    return EditEventData(
        id=edit.id,
        version=edit.version,
        activated=edit.activated,
        principal=edit.principal,
        accepted_at=edit.accepted_at,
        ended_at=edit.ended_at,
        facts=len(edit.facts),
        retracted=len(edit.retract),
        missed=len(edit.missed),
        dropped=len(edit.dropped),
        problem=None if edit.problem is None else edit.problem.type,
        **figures,
    )


def _moved(registry: Registry, source: str) -> BaseModel:
    data = registry.store.get(source)
    if data is None:
        raise RecordDamaged(source, "it is gone")
    record = decode_record(AliasRecord, source, data)
    return AliasEventData(**record.model_dump(include=set(AliasEventData.model_fields)))

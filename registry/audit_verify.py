"""Whether the audit log is as it was written, and the records that it speaks of too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from contracts.audit import FIRST, AuditFault, AuditRecord, Change
from registry.audit import PREFIX, key_of
from registry.audit_sources import change_of
from registry.errors import RecordDamaged
from registry.records import decode_record
from registry.store import Store

_NAME = re.compile(r"(0|[1-9][0-9]{0,17})\.json")


def verify(store: Store) -> tuple[list[AuditFault], int, str]:
    """What is changed, missing or in another's place, in the log and in what it speaks of.

    Returns:
        The faults by number; the number of the newest record, -1 where there is none, and its
        digest: whoever keeps these two elsewhere finds later whether the end was cut off, or the
        whole was written anew.

    Raises:
        StorageError: the storage cannot be read.
    """
    names = (_NAME.fullmatch(name) for name in store.names(PREFIX))
    newest = max((int(found[1]) for found in names if found), default=-1)
    faults: list[AuditFault] = []
    head = FIRST
    for number in range(newest + 1):
        data = store.get(key_of(number))
        if data is None:
            faults.append(AuditFault(number=number, reason="is missing"))
            head = ""
            continue
        faults += _faults(store, number, data, head)
        head = hashlib.sha256(data).hexdigest()
    return faults, newest, head


def digest_at(store: Store, number: int) -> str | None:
    """The digest of a record of the log; None if there is none."""
    data = store.get(key_of(number)) if number >= 0 else None
    return None if data is None else hashlib.sha256(data).hexdigest()


def _faults(store: Store, number: int, data: bytes, head: str) -> Iterator[AuditFault]:
    try:
        record = decode_record(AuditRecord, key_of(number), data)
    except RecordDamaged as error:
        yield AuditFault(number=number, reason=f"cannot be read: {error}")
        return
    if record.number != number:
        yield AuditFault(number=number, reason=f"is record {record.number} in another's place")
    elif head and record.previous != head:
        reason = f"was changed, or record {number} was: that one follows another"
        yield AuditFault(number=max(number - 1, 0), reason=reason)
    said = _source_fault(store, record)
    if said is not None:
        yield AuditFault(number=number, reason=said)


def _source_fault(store: Store, record: AuditRecord) -> str | None:
    data = store.get(record.source)
    if data is None:
        return f"speaks of {record.source}, which is missing"
    if hashlib.sha256(data).hexdigest() != record.digest:
        return f"speaks of {record.source}, which was changed"
    said = Change(**{name: getattr(record, name) for name in Change.model_fields})
    try:
        if change_of(record.source, data) != said:
            return f"was changed: {record.source} says otherwise"
    except (RecordDamaged, ValueError) as error:
        return f"speaks of {record.source}, which cannot be read: {error}"
    return None

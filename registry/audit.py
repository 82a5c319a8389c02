"""The audit log: derived from the records that changes leave, so that it can be behind, not wrong.

A change is made by putting its record, which names who made it. Only then is it written to the
log, by whichever process comes to it first. So no request waits for the log or fails with it, and
what a crash cut short is written later.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from heapq import heappop, heappush

from contracts.audit import FIRST, AuditRecord
from contracts.edits import StepKind
from registry.aliases import Aliases
from registry.audit_sources import change_of
from registry.edits import Edits
from registry.errors import RecordDamaged
from registry.records import decode_record, encode_record, read_record
from registry.sequence import SequenceLog
from registry.store import Store

log = logging.getLogger(__name__)

PREFIX = "audit"
AT_ONCE = 200
"""Records that one call writes at most."""


class Audit:
    """`audit/<n>.json`: each record has the digest of the one before, and of what it speaks of."""

    def __init__(self, store: Store, edits: Edits, aliases: Aliases) -> None:
        self._store = store
        self._edits = edits
        self._aliases = aliases
        self._log = SequenceLog(store, PREFIX, AuditRecord)
        self._lock = threading.Lock()
        # of the log
        self._read = -1
        self._head = FIRST
        self._written: set[str] = set()
        # of the registry
        self._accepted = -1
        self._open: dict[str, int] = {}
        """Edits without an end, and how many of their steps were looked at."""
        self._epochs: dict[str, int] = {}
        self._begun: dict[str, bool] = {}
        """Folders of keys and webhooks, and whether they are over."""
        self._found: list[str] = []
        """Sources whose time is not looked up yet."""
        self._waiting: list[tuple[float, str]] = []
        """A heap of times and sources."""

    def catch_up(self, at_once: int = AT_ONCE) -> bool:
        """Write what is not yet in the log, the oldest first.

        Returns:
            Whether that was all; else `at_once` records were written, and more wait.

        Raises:
            RegistryError: the storage fails; another time it goes on from there.
        """
        with self._lock:
            self._look()
            for _ in range(at_once):
                if not self._waiting:
                    break
                self._write(self._waiting[0][1])
                heappop(self._waiting)
            return not self._waiting

    def behind(self) -> int:
        """How many changes are not in the log yet; writes nothing.

        Raises:
            RegistryError: the storage fails.
        """
        with self._lock:
            self._look()
            return len(self._waiting)

    def page(self, limit: int, before: int | None = None) -> tuple[list[AuditRecord], int | None]:
        """Up to `limit` records, newest first, of those numbered below `before`.

        Returns:
            The records, and the `before` of the next page or None after the last.

        Raises:
            RecordDamaged: one is unreadable.
        """
        tip = self._log.tip()
        top = tip if before is None else min(before - 1, tip)
        bottom = max(top - limit + 1, 0)
        records = (self._log.read(number) for number in range(top, bottom - 1, -1))
        return [one for one in records if one is not None], bottom if bottom > 0 else None

    def newest(self) -> int:
        """Number of the newest record; -1 if there is none."""
        return self._log.tip()

    def since(self, number: int) -> tuple[list[AuditRecord], int]:
        """The records after `number` that can be read, in order, and the newest number."""
        tip, found = self._log.tip(), []
        for one in range(number + 1, tip + 1):
            try:
                record = read_record(self._store, AuditRecord, key_of(one))
            except RecordDamaged as error:
                log.error("%s; nobody is told of it", error)
                continue
            if record is not None:
                found.append(record)
        return found, tip

    def _write(self, source: str) -> None:
        """Put the record of a source after the newest one, unless another process has."""
        data = self._store.get(source)
        try:
            change = None if data is None else change_of(source, data)
        except RecordDamaged as error:
            log.error("not in the audit log: %s", error)
            return
        while change is not None and data is not None and source not in self._written:
            record = AuditRecord(
                **dict(change),
                number=self._read + 1,
                source=source,
                digest=_digest(data),
                previous=self._head,
            )
            # Not through the log, which goes on past a record that is gone: this is its place.
            self._store.put_if_absent(key_of(record.number), encode_record(record))
            self._read_new()

    def _read_new(self) -> None:
        """Take in what was written since, by whomever."""
        for number in range(self._read + 1, self._log.tip() + 1):
            key = key_of(number)
            data = self._store.get(key)
            if data is None:
                return  # gone: what it said is found again, and written in its place
            try:
                self._written.add(decode_record(AuditRecord, key, data).source)
            except RecordDamaged as error:
                # `verify` names it; the chain goes on over the bytes that are there.
                log.warning("in the audit log: %s", error)
            self._read, self._head = number, _digest(data)

    def _look(self) -> None:
        """Find the records of changes that were not looked at before.

        Where the storage fails in between, what was found is kept, and the rest found next time.
        """
        self._read_new()
        self._look_at_edits()
        self._look_at_aliases()
        self._look_at_pairs("keys", "key.json", "revoked.json")
        self._look_at_pairs("webhooks", "webhook.json", "end.json")
        while self._found:
            source = self._found[-1]
            if source not in self._written:
                heappush(self._waiting, (self._time(source), source))
            self._found.pop()

    def _time(self, source: str) -> float:
        try:
            return change_of(source, self._store.get(source) or b"").at
        except RecordDamaged:
            return 0.0

    def _look_at_edits(self) -> None:
        new, self._accepted = self._edits.since(self._accepted)
        for edit_id in new:
            self._found.append(f"edits/{edit_id}/request.json")
            if f"edits/{edit_id}/end.json" not in self._written:
                self._open[edit_id] = 0
        for edit_id, seen in list(self._open.items()):
            try:
                end = self._edits.end(edit_id)  # before its steps: after it there are none
                steps = self._edits.steps(edit_id)
            except RecordDamaged as error:
                log.warning("not yet in the audit log: %s", error)
                continue
            self._found += [
                f"edits/{edit_id}/{number}.json"
                for number, step in enumerate(steps)
                if number >= seen and step.kind is StepKind.CANCEL_REQUESTED
            ]
            self._open[edit_id] = len(steps)
            if end is not None:
                self._found.append(f"edits/{edit_id}/end.json")
                del self._open[edit_id]

    def _look_at_aliases(self) -> None:
        for name in self._aliases.names():
            record = self._aliases.get(name)
            if record is not None:
                first = self._epochs.get(name, 0) + 1
                epochs = range(first, record.epoch + 1)
                self._found += [f"aliases/{name}/{epoch}.json" for epoch in epochs]
                self._epochs[name] = record.epoch

    def _look_at_pairs(self, folder: str, begin: str, over: str) -> None:
        for name in self._store.names(folder):
            one = f"{folder}/{name}"
            if one not in self._begun and self._store.exists(f"{one}/{begin}"):
                self._found.append(f"{one}/{begin}")
                self._begun[one] = False
            if self._begun.get(one) is False and self._store.exists(f"{one}/{over}"):
                self._found.append(f"{one}/{over}")
                self._begun[one] = True


def key_of(number: int) -> str:
    """Where a record of the log lies."""
    return f"{PREFIX}/{number}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

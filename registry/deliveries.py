"""What was sent to one webhook, and so what is still to be sent.

Events are numbered as in the audit log. Each attempt is one record, put after it was made: what no
record tells was delivered is sent again, so every event comes at least once. A record also names
the number up to which nothing is left to do, and from where on records still matter: a process that
starts reads the newest one, those few, and the audit log from there on.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

from contracts.audit import AuditAction, AuditRecord
from contracts.ids import digest_of
from contracts.webhooks import (
    Delivery,
    DeliveryRecord,
    DeliveryState,
    EventType,
    Sent,
    WebhookRecord,
)
from registry.audit import Audit
from registry.audit_sources import state_told
from registry.sequence import SequenceLog
from registry.store import Store

_SHOWN = set(Delivery.model_fields)


@dataclass(frozen=True)
class Due:
    """An event that is to be sent."""

    change: AuditRecord
    type: EventType
    attempts: int = 0
    """How many were made."""
    at: float = 0.0
    """Unix seconds from which on it is to be tried."""

    @property
    def id(self) -> str:
        """The same whoever computes it, and another one in every registry."""
        return f"event-{digest_of([self.change.source, self.change.digest])[:20]}"


class Deliveries:
    """`webhooks/<id>/attempts/<n>.json`; from any thread."""

    def __init__(self, store: Store, audit: Audit, webhook: WebhookRecord) -> None:
        """Read nothing yet."""
        self._audit = audit
        self._webhook = webhook
        self._log = SequenceLog(store, f"webhooks/{webhook.id}/attempts", DeliveryRecord)
        self._lock = threading.Lock()
        self._read: int | None = None
        """Number of the newest attempt that was taken in; None: none were looked at."""
        self._looked = webhook.after
        """Number of the newest change that was taken in."""
        self._tried: dict[int, tuple[int, DeliveryRecord]] = {}
        """By event: place and record of its newest attempt; not of those below all that is due."""
        self._due: dict[int, Due] = {}

    def next(self) -> Due | None:
        """The event that is to be sent next, be it time or not; None if there is none.

        Raises:
            RegistryError: the storage fails.
        """
        with self._lock:
            self._look()
            return min(
                self._due.values(), key=lambda one: (one.at, one.change.number), default=None
            )

    def put(self, due: Due, sent: Sent, state: DeliveryState, next_at: float | None) -> None:
        """Keep what came of an attempt.

        Args:
            next_at: unix seconds of the next one; None: there is none.

        Raises:
            RegistryError: the storage fails; the event is then sent again.
        """
        number = due.change.number
        with self._lock:
            while True:
                self._look()
                place = self._log.tip() + 1
                left = self._due.keys() - ({number} if next_at is None else set())
                settled = min(left, default=self._looked + 1) - 1
                places = [at for one, (at, _) in self._tried.items() if one > settled]
                record = DeliveryRecord(
                    **dict(sent),
                    attempt=due.attempts + 1,
                    state=state,
                    next_at=next_at,
                    number=number,
                    settled=settled,
                    since=min([place, *places]),
                )
                if self._log.append(place, record):
                    return

    def page(self, limit: int, before: int | None = None) -> tuple[list[Delivery], int | None]:
        """Up to `limit` attempts, newest first, before number `before`.

        Returns:
            The attempts, and the `before` of the next page or None after the last.
        """
        records, following = self._log.page(limit, before)
        return [Delivery(**one.model_dump(include=_SHOWN)) for one in records], following

    def _look(self) -> None:
        """Take in attempts, by whichever process, and then changes, which they may settle."""
        if self._read is None:
            self._read = self._begin()
        attempts, self._read = self._log.numbered(self._read)
        for place, attempt in attempts:
            _, before = self._tried.get(attempt.number, (0, None))
            if before is None or before.next_at is not None:  # one that was the last stays it
                self._tried[attempt.number] = (place, attempt)
            standing = self._due.pop(attempt.number, None)
            if standing is not None:
                self._add(standing)
        changes, self._looked = self._audit.since(self._looked)
        for change in changes:
            kind = wanted(self._webhook, change)
            if kind is not None:
                self._add(Due(change, kind, at=min(change.at, time.time())))
        if attempts:
            first = min(self._due, default=self._looked + 1)
            self._tried = {one: tried for one, tried in self._tried.items() if one >= first}

    def _add(self, due: Due) -> None:
        """Take in an event, unless its newest attempt was its last."""
        _, attempt = self._tried.get(due.change.number, (0, None))
        if attempt is None:
            self._due[due.change.number] = due
        elif attempt.next_at is not None:
            tried = replace(due, attempts=attempt.attempt, at=attempt.next_at)
            self._due[due.change.number] = tried

    def _begin(self) -> int:
        """Where to begin, as the newest attempt says that can be read."""
        for place in range(self._log.tip(), -1, -1):
            records, _ = self._log.page(1, place + 1)
            if records:
                self._looked = records[0].settled
                return records[0].since - 1
        return -1


def wanted(webhook: WebhookRecord, change: AuditRecord) -> EventType | None:
    """The event that a change is for this webhook; None: none that it asked for."""
    if change.action is AuditAction.EDIT_ENDED:
        kind = EventType(f"edit.{state_told(change)}")
    elif change.action is AuditAction.ALIAS_MOVED:
        kind = EventType.ALIAS_MOVED
        if webhook.aliases is not None and change.subject not in webhook.aliases:
            return None
    else:
        return None
    return kind if kind in webhook.events else None

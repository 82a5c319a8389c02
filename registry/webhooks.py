"""Webhooks: each put once with its secret, and ended once; what was sent lies beside them."""

from __future__ import annotations

import base64
import logging
import secrets
import time
from functools import lru_cache
from typing import Literal

from contracts.errors import Conflict, NotFound
from contracts.ids import WEBHOOK_ID
from contracts.limits import MAX_WEBHOOKS
from contracts.webhooks import NewWebhook, Webhook, WebhookEnd, WebhookRecord, WebhookRequest
from registry.audit import Audit
from registry.deliveries import Deliveries
from registry.errors import RecordDamaged
from registry.records import encode_record, read_record
from registry.store import Store

log = logging.getLogger(__name__)

SECRET_BYTES = 32
_LOGS_CACHED = 1024


class Webhooks:
    """`webhooks/<id>/webhook.json`, and once it is over `webhooks/<id>/end.json`."""

    def __init__(self, store: Store, audit: Audit) -> None:
        self._store = store
        self._audit = audit
        self._records: dict[str, WebhookRecord] = {}
        self._over: set[str] = set()
        self._deliveries = lru_cache(maxsize=_LOGS_CACHED)(self._open)

    def create(self, asked: WebhookRequest, by: str) -> NewWebhook:
        """Make a webhook for what happens from now on; only what this returns shows its secret.

        Args:
            by: id of a key, or `local`.

        Raises:
            Conflict: there are as many as may be.
            RegistryError: the storage is full or broken.
        """
        if len(self.live()) >= MAX_WEBHOOKS:
            raise Conflict(f"there are {MAX_WEBHOOKS} webhooks, and no more may be: delete one")
        while not self._audit.catch_up():
            pass
        record = WebhookRecord(
            **dict(asked),
            id=f"webhook-{secrets.token_hex(8)}",
            secret=f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}",
            created_at=time.time(),
            created_by=by,
            after=self._audit.newest(),
        )
        self._store.put_if_absent(_key(record.id), encode_record(record))
        return NewWebhook(**dict(self.describe(record.id)), secret=record.secret)

    def get(self, webhook_id: str) -> WebhookRecord:
        """A webhook by its id, over or not.

        Raises:
            NotFound: there is none of this id.
            RecordDamaged: it is unreadable.
        """
        known = self._records.get(webhook_id)
        if known is None and WEBHOOK_ID.fullmatch(webhook_id):
            known = read_record(self._store, WebhookRecord, _key(webhook_id))
        if known is None:
            raise NotFound(f"no webhook {webhook_id[:100]!r}")
        self._records[webhook_id] = known
        return known

    def is_over(self, webhook_id: str) -> bool:
        """Whether nothing is sent to it any more; an end that cannot be read is one too."""
        if webhook_id not in self._over and self._store.exists(_end(webhook_id)):
            self._over.add(webhook_id)
        return webhook_id in self._over

    def live(self) -> list[WebhookRecord]:
        """Those that are not over and can be read, in no order."""
        found = []
        for name in self._names():
            try:
                if not self.is_over(name):
                    found.append(self.get(name))
            except RecordDamaged as error:
                log.error("nothing is sent to %s: %s", name, error)
        return found

    def describe(self, webhook_id: str) -> Webhook:
        """A webhook as clients see it.

        Raises:
            NotFound: there is none of this id.
            RecordDamaged: it or its end is unreadable.
        """
        record = self.get(webhook_id)
        shown = record.model_dump(exclude={"secret", "after"})
        end = read_record(self._store, WebhookEnd, _end(webhook_id))
        if end is not None:
            shown |= {"ended_at": end.at, "ended_by": end.by, "ended": end.reason}
        return Webhook(**shown)

    def all(self) -> list[Webhook]:
        """Every webhook that can be read, the newest first, those that are over too."""
        found = []
        for name in self._names():
            try:
                found.append(self.describe(name))
            except RecordDamaged as error:
                log.error("%s is not listed: %s", name, error)
        return sorted(found, key=lambda one: -one.created_at)

    def end(self, webhook_id: str, by: str, reason: Literal["deleted", "gone"]) -> Webhook:
        """End a webhook for good; the first end stands.

        Raises:
            NotFound: there is none of this id.
            RecordDamaged: it is over, and cannot be shown.
            StorageError: the storage is full or broken.
        """
        if not WEBHOOK_ID.fullmatch(webhook_id) or not self._store.exists(_key(webhook_id)):
            raise NotFound(f"no webhook {webhook_id[:100]!r}")
        end = WebhookEnd(at=time.time(), by=by, reason=reason)
        self._store.put_if_absent(_end(webhook_id), encode_record(end))
        return self.describe(webhook_id)

    def deliveries(self, webhook_id: str) -> Deliveries:
        """What was sent to a webhook and what is to be sent.

        Raises:
            NotFound: there is none of this id.
            RecordDamaged: it is unreadable.
        """
        return self._deliveries(webhook_id)

    def _open(self, webhook_id: str) -> Deliveries:
        return Deliveries(self._store, self._audit, self.get(webhook_id))

    def _names(self) -> list[str]:
        names = filter(WEBHOOK_ID.fullmatch, self._store.names("webhooks"))
        known = self._records.keys() | self._over
        return [one for one in names if one in known or self._store.exists(_key(one))]


def _key(webhook_id: str) -> str:
    return f"webhooks/{webhook_id}/webhook.json"


def _end(webhook_id: str) -> str:
    return f"webhooks/{webhook_id}/end.json"

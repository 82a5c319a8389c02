"""Acceptance: the order of edits, and what an idempotency key stands for."""

from __future__ import annotations

import hashlib
import threading

from pydantic import BaseModel

from contracts.edits import AcceptedEdit
from contracts.errors import Conflict, FieldError, InvalidRequest
from contracts.ids import EditId, digest_of
from contracts.keys import LOCAL
from registry.errors import RecordDamaged
from registry.records import encode_record, read_record
from registry.sequence import SequenceLog
from registry.store import Store


class EditEntry(BaseModel):
    """What `edits/by-seq/<n>.json` holds: the edit that was accepted as number n."""

    edit_id: EditId


class Idempotency(BaseModel):
    """What `idempotency/<sha256 of principal and key>.json` holds: the first body and its edit."""

    body_digest: str
    edit_id: EditId


class Acceptance:
    """Writes request, idempotency record and place in the order, so that a replay completes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log = SequenceLog(store, "edits/by-seq", EditEntry)
        self._placed: set[str] = set()
        self._indexed = -1
        self._lock = threading.Lock()

    def accept(
        self, edit: AcceptedEdit, idempotency_key: str | None, body_digest: str | None
    ) -> tuple[str, bool]:
        """See `Edits.accept`."""
        if idempotency_key is None:
            self._put_request(edit)
            standing = edit.id
        else:
            body = body_digest or digest_of(edit.request.model_dump(mode="json"))
            standing = self._first_with_key(edit, idempotency_key, body)
        self.place(standing)
        return standing, standing == edit.id

    def known(
        self, idempotency_key: str, body_digest: str, principal: str | None = None
    ) -> str | None:
        """See `Edits.known`."""
        key = _idempotency(idempotency_key, principal)
        standing = read_record(self._store, Idempotency, key)
        if standing is None:
            return None
        if standing.body_digest != body_digest:
            reason = "was used before with another body"
            error = FieldError(field="Idempotency-Key", reason=reason)
            raise InvalidRequest(f"Idempotency-Key {reason}", errors=[error])
        return standing.edit_id

    def tip(self) -> int:
        """The newest number; -1 when there is none."""
        return self._log.tip()

    def since(self, number: int) -> tuple[list[str], int]:
        """Ids of the edits accepted after `number` (-1: all), in order, and the newest number."""
        entries, tip = self._log.numbered(after=number)
        return [entry.edit_id for _, entry in entries], tip

    def page(self, limit: int, before: int | None) -> tuple[list[str], int | None]:
        """See `Edits.page`."""
        entries, following = self._log.page(limit, before)
        return [entry.edit_id for entry in entries], following

    def damaged(self, limit: int | None, before: int | None) -> list[RecordDamaged]:
        """See `Edits.damaged`."""
        return self._log.damaged(limit, before)

    def place(self, edit_id: str) -> None:
        """Give the edit the next number, once: who wins a number has seen all before it."""
        while True:
            with self._lock:
                new, self._indexed = self._log.numbered(after=self._indexed)
                self._placed.update(entry.edit_id for _, entry in new)
                number = self._indexed + 1
                if edit_id in self._placed:
                    return
            if self._log.append(number, EditEntry(edit_id=edit_id)):
                return

    def _first_with_key(self, edit: AcceptedEdit, idempotency_key: str, body: str) -> str:
        """Id of the first edit that came with this key, which is this one if there was none."""
        standing = self.known(idempotency_key, body, edit.principal)
        if standing is None:
            self._put_request(edit)  # first, so that no record ever names an edit without a request
            record = Idempotency(body_digest=body, edit_id=edit.id)
            key = _idempotency(idempotency_key, edit.principal)
            if self._store.put_if_absent(key, encode_record(record)):
                return edit.id
            standing = self.known(idempotency_key, body, edit.principal)
        return standing or edit.id

    def _put_request(self, edit: AcceptedEdit) -> None:
        key, data = f"edits/{edit.id}/request.json", encode_record(edit)
        if not self._store.put_if_absent(key, data) and self._store.get(key) != data:
            raise Conflict(f"another edit has the id {edit.id}")


def _idempotency(key: str, principal: str | None) -> str:
    # No header holds a NUL, so nobody's key is another one's; local ones are named as before keys.
    own = key if principal in (None, LOCAL) else f"{principal}\0{key}"
    return f"idempotency/{hashlib.sha256(own.encode()).hexdigest()}.json"

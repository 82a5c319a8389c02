"""Keys of the API: each put once as a digest of itself, and ended by a revocation, put once too."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from hmac import compare_digest

from contracts.errors import FieldError, InvalidRequest, NotFound
from contracts.ids import KEY_ID
from contracts.keys import Key, KeyRecord, KeyRequest, NewKey, Revocation
from registry.errors import RecordDamaged
from registry.records import encode_record, read_record
from registry.store import Store

log = logging.getLogger(__name__)

PREFIX = "memit_"
ID_BYTES = 8
SECRET_BYTES = 32
_KEY = re.compile(r"memit_([0-9a-f]{16})_[0-9a-f]{64}")


def key_id_of(key: str) -> str | None:
    """The id that a key says of itself; None if it is not of the form of one."""
    found = _KEY.fullmatch(key)
    return None if found is None else f"key-{found[1]}"


def opens(record: KeyRecord, key: str) -> bool:
    """Whether `key` is the one of this record; takes as long whatever it is."""
    return compare_digest(_digest(key), record.digest)


class Keys:
    """`keys/<id>/key.json`, and once it is over `keys/<id>/revoked.json`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._any = False

    def create(self, asked: KeyRequest, by: str) -> NewKey:
        """Make a key; only what this returns has the key itself.

        Args:
            by: id of a key, or `local`.

        Raises:
            InvalidRequest: it would be expired already.
            StorageError: the storage is full or broken.
        """
        if asked.expires_at is not None and asked.expires_at <= time.time():
            error = FieldError(field="/expires_at", reason="must be in the future, in unix seconds")
            raise InvalidRequest(f"{error.field} {error.reason}", errors=[error])
        key = f"{PREFIX}{secrets.token_hex(ID_BYTES)}_{secrets.token_hex(SECRET_BYTES)}"
        return NewKey(**dict(self.register(key, asked, by)), key=key)

    def register(self, key: str, asked: KeyRequest, by: str) -> Key:
        """Make a key that was drawn elsewhere valid; one that is there already stays as it is.

        Raises:
            ValueError: it is not of the form of a key, or another one has its id; the message does
                not repeat it.
            StorageError: the storage is full or broken.
        """
        key_id = key_id_of(key)
        if key_id is None:
            raise ValueError(f"not of the form {PREFIX}<16 hex digits>_<64 hex digits>")
        record = KeyRecord(
            **dict(asked), id=key_id, digest=_digest(key), created_at=time.time(), created_by=by
        )
        if not self._store.put_if_absent(_key(key_id), encode_record(record)):
            standing = self.get(key_id)
            if standing is None or not opens(standing, key):
                raise ValueError(f"another key has the id {key_id}")
        return self.describe(key_id)

    def any_made(self) -> bool:
        """Whether a key was ever made; one that is revoked or expired counts."""
        if not self._any:
            names = self._store.names("keys")
            self._any = any(self._store.exists(_key(name)) for name in names)
        return self._any

    def get(self, key_id: str) -> KeyRecord | None:
        """A key by its id, valid or not; None if there is none.

        Raises:
            RecordDamaged: it is unreadable.
        """
        if not KEY_ID.fullmatch(key_id):
            return None
        return read_record(self._store, KeyRecord, _key(key_id))

    def revoked(self, key_id: str) -> bool:
        """Whether a key is over; a revocation that cannot be read is one too."""
        return self._store.exists(_revocation(key_id))

    def describe(self, key_id: str) -> Key:
        """A key as clients see it.

        Raises:
            NotFound: there is none of this id.
            RecordDamaged: it or its revocation is unreadable.
        """
        record = self.get(key_id)
        if record is None:
            raise NotFound(f"no key {key_id[:100]!r}")
        over = self.revocation(key_id)
        shown = record.model_dump(exclude={"digest"})
        if over is not None:
            shown |= {"revoked_at": over.at, "revoked_by": over.by}
        return Key(**shown)

    def revocation(self, key_id: str) -> Revocation | None:
        """When a key (full id) was revoked and by whom; None if it was not.

        Raises:
            RecordDamaged: it is unreadable.
        """
        return read_record(self._store, Revocation, _revocation(key_id))

    def all(self) -> list[Key]:
        """Every key that can be read, the newest first."""
        found = []
        for name in self._store.names("keys"):
            try:
                if self.get(name):
                    found.append(self.describe(name))
            except RecordDamaged as error:
                log.error("%s is not listed: %s", name, error)
        return sorted(found, key=lambda key: -key.created_at)

    def revoke(self, key_id: str, by: str) -> Key:
        """End a key for good; the first revocation stands.

        Raises:
            NotFound: there is none of this id.
            StorageError: the storage is full or broken.
        """
        if self.get(key_id) is None:
            raise NotFound(f"no key {key_id[:100]!r}")
        record = Revocation(at=time.time(), by=by)
        self._store.put_if_absent(_revocation(key_id), encode_record(record))
        return self.describe(key_id)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _key(key_id: str) -> str:
    return f"keys/{key_id}/key.json"


def _revocation(key_id: str) -> str:
    return f"keys/{key_id}/revoked.json"

"""Which key a request shows, and whether it is valid: the registry's word, at most seconds old."""

from __future__ import annotations

import time
from dataclasses import dataclass

from contracts.errors import Unauthorized
from contracts.keys import KeyRecord
from contracts.settings import Settings
from registry.keys import Keys, key_id_of, opens
from service.listening import needs_key
from service.principal import ANYBODY, Principal, principal_of

RECHECK_SECONDS = 2.0
"""Between two looks whether a key was revoked, or a first one made."""
HOW = "send one as Authorization: Bearer memit_..."
NOT_VALID = f"the key is not valid; {HOW}"


@dataclass(frozen=True)
class _Known:
    record: KeyRecord
    revoked: bool
    until: float
    """Monotonic seconds; then it is looked at again."""

    def is_fresh(self) -> bool:
        return self.revoked or time.monotonic() < self.until


class Keyring:
    """Keys that were shown to this process, from any thread."""

    def __init__(self, keys: Keys, settings: Settings) -> None:
        self._keys = keys
        self._always = needs_key(settings)
        self._never = settings.auth == "off"
        self._known: dict[str, _Known] = {}
        self._open_until = 0.0

    def remembers(self, authorization: str | None) -> bool:
        """Whether `principal` has its answer in memory, so that it does not block."""
        if self._never or time.monotonic() < self._open_until:
            return True
        _, key_id = _shown(authorization or "")
        known = self._known.get(key_id or "")
        return known is not None and known.is_fresh()

    def principal(self, authorization: str | None) -> Principal:
        """Who sends this `Authorization` header; blocks unless it `remembers`.

        Raises:
            Unauthorized: a key is needed, and this is none that is valid.
            RegistryError: the storage fails.
        """
        if not self._needed():
            return ANYBODY
        if authorization is None:
            raise Unauthorized(f"a key is required; {HOW}")
        key, key_id = _shown(authorization)
        known = None if key_id is None else self._look(key_id)
        if known is None or not opens(known.record, key):
            raise Unauthorized(NOT_VALID)
        # Only who has the key learns more of it.
        record = known.record
        if known.revoked:
            raise Unauthorized(f"{record.id} was revoked")
        if record.expires_at is not None and record.expires_at <= time.time():
            raise Unauthorized(f"{record.id} has expired")
        return principal_of(record)

    def _needed(self) -> bool:
        if self._always:
            return True
        if self._never or time.monotonic() < self._open_until:
            return False
        if self._keys.any_made():
            return True
        self._open_until = time.monotonic() + RECHECK_SECONDS
        return False

    def _look(self, key_id: str) -> _Known | None:
        known = self._known.get(key_id)
        if known is not None and known.is_fresh():
            return known
        until = time.monotonic() + RECHECK_SECONDS
        record = known.record if known is not None else self._keys.get(key_id)
        if record is None:
            return None
        found = _Known(record, self._keys.revoked(key_id), until)
        self._known[key_id] = found
        return found


def _shown(authorization: str) -> tuple[str, str | None]:
    """A header's key, and the id in it if it is of the form of one."""
    scheme, _, key = authorization.strip().partition(" ")
    key = key.strip()
    return key, key_id_of(key) if scheme.lower() == "bearer" else None

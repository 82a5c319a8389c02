"""Aliases: named pointers to versions, moved by compare-and-swap on their epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

from contracts.errors import Conflict, FieldError, InvalidRequest, PreconditionFailed
from contracts.ids import ALIAS_NAME, VERSION_ID, VERSION_SHORT
from contracts.versions import AliasRecord, VersionManifest, VersionStatus
from registry.sequence import SequenceLog
from registry.store import Store

_LOGS_CACHED = 1024


class Aliases:
    """Epochs of an alias lie in `aliases/<name>/<epoch>.json`, from 1; the newest is the alias."""

    def __init__(self, store: Store, manifest_of: Callable[[str], VersionManifest]) -> None:
        self._store = store
        self._manifest_of = manifest_of
        self._log = lru_cache(maxsize=_LOGS_CACHED)(self._open)

    def get(self, name: str) -> AliasRecord | None:
        """Where the alias points now; None if there is no such alias."""
        if not ALIAS_NAME.fullmatch(name):
            return None
        log = self._log(name)
        return log.read(log.tip())

    def names(self) -> list[str]:
        """Names of all aliases, sorted."""
        return [name for name in self._store.names("aliases") if self.get(name) is not None]

    def naming(self, version: str) -> list[str]:
        """Names of the aliases that point to this version now, sorted."""
        records = (self.get(name) for name in self._store.names("aliases"))
        return [record.name for record in records if record and record.version == version]

    def history(self, name: str) -> list[AliasRecord]:
        """Every epoch of the alias, oldest first; empty if there is no such alias."""
        return self._log(name).all() if ALIAS_NAME.fullmatch(name) else []

    def move(
        self, name: str, version: str, expected_epoch: int, edit_id: str | None = None
    ) -> AliasRecord:
        """Point the alias at `version` (a full id) if its epoch is `expected_epoch`; 0 creates it.

        Returns:
            The record of the new epoch, `expected_epoch + 1`.

        Raises:
            InvalidRequest: not a name for an alias.
            NotFound: no version of this id was committed.
            ManifestDamaged: the version cannot be loaded.
            Conflict: the version was rejected by its gate.
            PreconditionFailed: the alias is at another epoch.
            StorageError: the storage is full or broken.
        """
        _check_name(name)
        if self._manifest_of(version).status is VersionStatus.REJECTED:
            raise Conflict(f"version {version} was rejected by its gate: no alias may name it")
        log = self._log(name)
        record = AliasRecord(
            name=name, epoch=expected_epoch + 1, version=version, at=time.time(), edit_id=edit_id
        )
        if not log.append(record.epoch, record):
            raise PreconditionFailed(
                f"alias {name} is at epoch {log.tip()}, not at {expected_epoch}"
            )
        return record

    def _open(self, name: str) -> SequenceLog[AliasRecord]:
        return SequenceLog(self._store, f"aliases/{name}", AliasRecord, first=1)


def _check_name(name: str) -> None:
    if not ALIAS_NAME.fullmatch(name):
        reason = "must be a lower-case letter, then at most 62 lower-case letters, digits, - or _"
    elif VERSION_SHORT.fullmatch(name) or VERSION_ID.fullmatch(name):
        reason = "would hide the version of that id"
    else:
        return
    error = FieldError(field="/name", reason=reason)
    raise InvalidRequest(f"alias name {name[:100]!r} {reason}", errors=[error])

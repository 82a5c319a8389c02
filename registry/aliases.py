"""Aliases: named pointers to versions, moved by compare-and-swap on their epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache

from contracts.errors import Conflict, FieldError, InvalidRequest, PreconditionFailed
from contracts.ids import ALIAS_NAME, VERSION_ID, VERSION_SHORT, VersionId
from contracts.versions import BASE, AliasPeriod, AliasRecord, VersionManifest, VersionStatus
from registry.sequence import SequenceLog
from registry.split import heaviest
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
        """Names of the aliases that point to this version now, alone or in a split, sorted."""
        records = (self.get(name) for name in self._store.names("aliases"))
        return [record.name for record in records if record and version in record.versions]

    def history(self, name: str) -> list[AliasRecord]:
        """Every epoch of the alias, oldest first; empty if there is no such alias."""
        return self._log(name).all() if ALIAS_NAME.fullmatch(name) else []

    def page(
        self, name: str, limit: int, before: int | None = None
    ) -> tuple[list[AliasPeriod], int | None]:
        """Up to `limit` epochs below `before`, newest first, each with its end.

        Returns:
            The epochs, and the `before` of the next page or None after the last.
        """
        log = self._log(name)
        top = log.tip() if before is None else min(before - 1, log.tip())
        bottom = max(top - limit + 1, log.first)
        periods, later = [], log.read(top + 1)
        for number in range(top, bottom - 1, -1):
            record = log.read(number)
            if record is not None:
                until = None if later is None else later.at
                periods.append(AliasPeriod(**dict(record), until=until))
            later = record
        return periods, bottom if bottom > log.first else None

    def move(
        self,
        name: str,
        to: str | Mapping[VersionId, int],
        expected_epoch: int,
        edit_id: str | None = None,
        principal: str | None = None,
    ) -> AliasRecord:
        """Point the alias elsewhere if its epoch is `expected_epoch`; 0 creates it.

        Args:
            to: a version (full id), or the weights of several that share its generations.
            edit_id, principal: the edit that moves it, or who does.

        Returns:
            The record of the new epoch, `expected_epoch + 1`.

        Raises:
            InvalidRequest: not a name for an alias.
            NotFound: no version of this id was committed.
            ManifestDamaged: a version cannot be loaded.
            Conflict: a version was rejected by its gate.
            PreconditionFailed: the alias is at another epoch.
            StorageError: the storage is full or broken.
        """
        _check_name(name)
        split = None if isinstance(to, str) else dict(to)
        for version in split or [str(to)]:
            if self._manifest_of(version).status is VersionStatus.REJECTED:
                raise Conflict(f"version {version} was rejected by its gate: no alias may name it")
        record = AliasRecord(
            name=name,
            epoch=expected_epoch + 1,
            version=heaviest(split) if split else str(to),
            split=split,
            at=time.time(),
            edit_id=edit_id,
            principal=principal,
        )
        log = self._log(name)
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
    elif name == BASE:
        reason = "is what the untouched model is called under /v1"
    else:
        return
    error = FieldError(field="/name", reason=reason)
    raise InvalidRequest(f"alias name {name[:100]!r} {reason}", errors=[error])

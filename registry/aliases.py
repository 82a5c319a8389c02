"""Aliases: named pointers to versions, moved by compare-and-swap on their epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

from contracts.errors import Conflict, FieldError, InvalidRequest, PreconditionFailed
from contracts.ids import ALIAS_NAME, VERSION_ID, VERSION_SHORT, VersionId
from contracts.versions import BASE, AliasPeriod, AliasRecord, VersionManifest, VersionStatus
from registry.errors import RecordDamaged
from registry.sequence import SequenceLog
from registry.split import heaviest
from registry.store import Store

_LOGS_CACHED = 1024

logger = logging.getLogger(__name__)


class Aliases:
    """Epochs of an alias lie in `aliases/<name>/<epoch>.json`, from 1; the newest is the alias."""

    def __init__(
        self,
        store: Store,
        manifest_of: Callable[[str], VersionManifest],
        rebuilt: Callable[[str, int], AliasRecord | None],
    ) -> None:
        """Read nothing yet.

        Args:
            manifest_of: see `Versions.get`.
            rebuilt: the epoch of an alias whose record is lost, see `moves.moved_by_edit`.
        """
        self._store = store
        self._manifest_of = manifest_of
        self._rebuilt = rebuilt
        self._log = lru_cache(maxsize=_LOGS_CACHED)(self._open)

    def get(self, name: str) -> AliasRecord | None:
        """Where the alias points now; None if there is no such alias.

        Raises:
            RecordDamaged: its newest epoch is lost; an older one is not where it points.
        """
        if not ALIAS_NAME.fullmatch(name):
            return None
        log = self._log(name)
        return log.read(log.tip())

    def epoch(self, name: str) -> int:
        """The newest epoch, readable or not; 0 if there is no such alias."""
        return self._log(name).tip() if ALIAS_NAME.fullmatch(name) else 0

    def names(self) -> list[str]:
        """Names of all aliases, sorted; those too whose newest epoch is lost."""
        return [name for name in self._store.names("aliases") if self.epoch(name) > 0]

    def naming(self, version: str) -> list[str]:
        """Names of the aliases that point to this version now, alone or in a split, sorted."""
        records = (self._sound(name) for name in self._store.names("aliases"))
        return [record.name for record in records if record and version in record.versions]

    def sound(self) -> list[AliasRecord]:
        """Where all aliases point whose newest epoch can be read, by name."""
        records = (self._sound(name) for name in self._store.names("aliases"))
        return [record for record in records if record is not None]

    def damaged(
        self, name: str, limit: int | None = None, before: int | None = None
    ) -> list[RecordDamaged]:
        """What is wrong with the epochs that `page` leaves out; by default of all."""
        return self._log(name).damaged(limit, before)

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
        numbers, following = log.window(limit, before)
        periods, later = [], log.all(after=numbers.start)[:1] if before else []
        for record in log.page(limit, before)[0]:
            until = later[0].at if later else None
            periods.append(AliasPeriod(**dict(record), until=until))
            later = [record]
        return periods, following

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

    def append_lost(self, record: AliasRecord) -> bool:
        """Put an epoch that is known to have been there; False if it is not the next one."""
        return self._log(record.name).append(record.epoch, record)

    def _sound(self, name: str) -> AliasRecord | None:
        try:
            return self.get(name)
        except RecordDamaged as error:
            logger.error("where alias %s points is not known: %s", name, error)
            return None

    def _open(self, name: str) -> SequenceLog[AliasRecord]:
        def rebuilt(epoch: int) -> AliasRecord | None:
            return self._rebuilt(name, epoch)

        return SequenceLog(self._store, f"aliases/{name}", AliasRecord, 1, rebuilt)


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

"""Full reports: how a version fares on all its live facts, measured after it was committed."""

from __future__ import annotations

import logging

from contracts.reports import FullReport
from registry.errors import RecordDamaged
from registry.records import encode_record, read_record
from registry.store import Store

log = logging.getLogger(__name__)


class FullReports:
    """At most one a version, beside its manifest; the first one stands."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def exists(self, version: str) -> bool:
        """Whether the version (full id) has one, readable or not."""
        return self._store.exists(_key(version))

    def get(self, version: str) -> FullReport | None:
        """The full report of a version (full id); None if there is none, or it is unreadable."""
        try:
            return read_record(self._store, FullReport, _key(version))
        except RecordDamaged as error:
            # It only describes: a damaged one must not take its version out of sight.
            log.warning("%s is shown without its full report: %s", version, error)
            return None

    def put(self, version: str, report: FullReport) -> bool:
        """Keep the full report of a version (full id); False if another one stands.

        Raises:
            StorageError: the storage is full or broken.
        """
        return self._store.put_if_absent(_key(version), encode_record(report))


def _key(version: str) -> str:
    return f"versions/{version}.report.json"

"""Full reports: how a version fares on all its live facts, measured after it was committed."""

from __future__ import annotations

from contracts.reports import FullReport
from registry.derived import Derived
from registry.store import Store


class FullReports:
    """At most one a version, beside its manifest; the first one stands, a damaged one is none."""

    def __init__(self, store: Store) -> None:
        self._reports = Derived[FullReport, FullReport](store, FullReport, lambda report: report)

    def exists(self, version: str) -> bool:
        """Whether the version (full id) has one that can be read."""
        return self.get(version) is not None

    def get(self, version: str) -> FullReport | None:
        """The full report of a version (full id); None if there is none, or it is unreadable."""
        return self._reports.get(_stem(version))

    def put(self, version: str, report: FullReport) -> bool:
        """Keep the full report of a version (full id); False if another one stands.

        Raises:
            StorageError: the storage is full or broken.
        """
        return self._reports.put_once(_stem(version), report) is None


def _stem(version: str) -> str:
    return f"versions/{version}.report"

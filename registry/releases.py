"""What was given up on purpose: weights that can be solved again, and blobs that nothing named.

A record is put before anything is removed, so that what is gone by it is never taken for damage.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from pydantic import BaseModel, Field

from contracts.ids import Digest, VersionId
from registry.sequence import SequenceLog
from registry.store import Store

PREFIX = "releases"


class Release(BaseModel):
    """What one run of `memit prune` gave up."""

    at: float = Field(description="unix seconds")
    versions: list[VersionId] = Field(default_factory=list, description="their weights")
    blobs: list[Digest] = Field(default_factory=list, description="that no version named")


class Releases:
    """`releases/<n>.json`; what was given up may be there again, solved for whoever asked."""

    def __init__(self, store: Store) -> None:
        self._log = SequenceLog(store, PREFIX, Release)
        self._lock = threading.Lock()
        self._seen = -1
        self._versions: set[str] = set()
        self._blobs: set[str] = set()

    def versions(self) -> Collection[str]:
        """Versions whose weights were given up once."""
        self._look()
        return self._versions

    def blobs(self) -> Collection[str]:
        """Other blobs that were."""
        self._look()
        return self._blobs

    def add(self, release: Release) -> None:
        """Put a record of it.

        Raises:
            StorageError: the storage is full or broken.
        """
        while not self._log.append(self._log.tip() + 1, release):
            pass  # another run was quicker

    def _look(self) -> None:
        with self._lock:
            new, self._seen = self._log.numbered(after=self._seen)
            for _, release in new:
                self._versions.update(release.versions)
                self._blobs.update(release.blobs)

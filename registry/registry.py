"""The registry: one folder, and everything durable in it."""

from __future__ import annotations

from pathlib import Path

from registry.aliases import Aliases
from registry.artefacts import Artefacts
from registry.blobs import Blobs
from registry.edits import Edits
from registry.full_reports import FullReports
from registry.ledger import Ledger
from registry.store import Store
from registry.versions import Versions


class Registry:
    """Opens (and creates) the registry in the folder `root`.

    Any number of threads, processes and machines may have the same folder open; each keeps caches
    of what can never change. All calls block on the disk.
    """

    def __init__(self, root: Path, *, store: Store | None = None) -> None:
        self.store = Store(root) if store is None else store
        self.blobs = Blobs(self.store)
        self.aliases = Aliases(self.store, lambda version: self.versions.get(version))
        self.full_reports = FullReports(self.store)
        self.versions = Versions(self.store, self.blobs, self.aliases, self.full_reports)
        self.edits = Edits(self.store, self.versions)
        self.ledger = Ledger(self.blobs, self.versions)

    def artefacts(self, base_digest: str) -> Artefacts:
        """What was computed once for this base model.

        Raises:
            ValueError: `base_digest` is not a digest.
        """
        return Artefacts(self.store, self.blobs, base_digest)

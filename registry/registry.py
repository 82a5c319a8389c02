"""The registry: one store, and everything durable in it."""

from __future__ import annotations

from registry.aliases import Aliases
from registry.artefacts import Artefacts
from registry.audit import Audit
from registry.blobs import Blobs
from registry.edits import Edits
from registry.full_reports import FullReports
from registry.keys import Keys
from registry.ledger import Ledger
from registry.moves import moved_by_edit
from registry.releases import Releases
from registry.store import Store
from registry.versions import Versions
from registry.webhooks import Webhooks


class Registry:
    """The registry that lies in `store`, empty or not.

    Any number of threads, processes and machines may have the same one open; each keeps caches of
    what can never change. All calls block on the storage, and may raise `StorageError`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.blobs = Blobs(self.store)
        self.aliases = Aliases(
            self.store,
            lambda version: self.versions.get(version),
            lambda name, epoch: moved_by_edit(self.edits, self.versions, name, epoch),
        )
        self.full_reports = FullReports(self.store)
        self.releases = Releases(self.store)
        self.versions = Versions(
            self.store, self.blobs, self.aliases, self.full_reports, self.releases
        )
        self.edits = Edits(self.store, self.versions)
        self.keys = Keys(self.store)
        self.audit = Audit(self.store, self.edits, self.aliases)
        self.webhooks = Webhooks(self.store, self.audit)
        self.ledger = Ledger(self.blobs, self.versions, self.edits)

    def artefacts(self, base_digest: str) -> Artefacts:
        """What was computed once for this base model.

        Raises:
            ValueError: `base_digest` is not a digest.
        """
        return Artefacts(self.store, self.blobs, base_digest)

"""The ledger: which facts are live in a version, and which versions brought a fact."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from contracts.facts import LiveFact
from contracts.ids import canonical_json
from registry.blobs import Blobs
from registry.errors import ManifestDamaged, RecordDamaged
from registry.versions import Versions

_LEDGERS_CACHED = 8
_LIVE = TypeAdapter(list[LiveFact])
_logger = logging.getLogger(__name__)


class Ledger:
    """Facts by version; the live facts of a version are one immutable blob."""

    def __init__(self, blobs: Blobs, versions: Versions) -> None:
        self._blobs = blobs
        self._versions = versions
        self._read = lru_cache(maxsize=_LEDGERS_CACHED)(self._load)
        self._added: defaultdict[str, list[str]] = defaultdict(list)
        self._indexed = -1
        self._lock = threading.Lock()

    def live(self, version: str) -> list[LiveFact]:
        """The live facts of a version (full id), sorted by id.

        Raises:
            NotFound, ManifestDamaged: see `Versions.get`.
            BlobMissing, BlobDamaged, RecordDamaged: its ledger cannot be read.
        """
        return list(self._read(self._versions.get(version).live).values())

    def get(self, fact_id: str, version: str) -> LiveFact | None:
        """The fact as `version` (full id) holds it; None if it is not live there.

        Raises:
            As `live`.
        """
        return self._read(self._versions.get(version).live).get(fact_id)

    def ever(self, fact_id: str) -> list[str]:
        """Ids of the versions that added the fact, oldest first, rejected and dry runs too."""
        with self._lock:
            for number in range(self._indexed + 1, self._versions.tip() + 1):
                self._index(number)
                self._indexed = number
            return list(self._added.get(fact_id, ()))

    def put_live(self, facts: Sequence[LiveFact]) -> str:
        """Keep the live facts of a version, in any order; the digest for its manifest.

        Raises:
            StorageError: the storage is full or broken.
        """
        ordered = sorted(facts, key=lambda fact: fact.id)
        return self._blobs.put(canonical_json(_LIVE.dump_python(ordered, mode="json")))

    def _index(self, number: int) -> None:
        version = self._versions.by_seq(number)
        if version is None:
            return
        try:
            added = self._versions.get(version).added
        except ManifestDamaged:
            # It can be neither served nor mended; the history of all other facts still can.
            _logger.exception("left out of the history of facts")
            return
        for fact_id in added:
            self._added[fact_id].append(version)

    def _load(self, digest: str) -> dict[str, LiveFact]:
        data = self._blobs.get(digest)
        try:
            facts = _LIVE.validate_json(data)
        except ValidationError as error:
            raise RecordDamaged(f"blob {digest}", "not a list of live facts") from error
        return {fact.id: fact for fact in facts}

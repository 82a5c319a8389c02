"""The ledger: which facts are live in a version, and which versions brought a fact."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from contracts.facts import LiveFact
from contracts.ids import canonical_json
from registry.blobs import Blobs
from registry.edits import Edits
from registry.errors import BlobDamaged, BlobMissing, RecordDamaged
from registry.replay import replayed
from registry.versions import Versions

_LEDGERS_CACHED = 8
_LIVE = TypeAdapter(list[LiveFact])
_logger = logging.getLogger(__name__)


class Ledger:
    """Facts by version; the live facts of a version are one immutable blob.

    A blob that is damaged or gone is made again from the edits, where they can be read.
    """

    def __init__(self, blobs: Blobs, versions: Versions, edits: Edits) -> None:
        self._blobs = blobs
        self._versions = versions
        self._edits = edits
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
        return list(self._of(version).values())

    def get(self, fact_id: str, version: str) -> LiveFact | None:
        """The fact as `version` (full id) holds it; None if it is not live there.

        Raises:
            As `live`.
        """
        return self._of(version).get(fact_id)

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
        return self._blobs.put(_encoded(facts))

    def mend(self, version: str) -> None:
        """Make the ledger of a version (full id) again if its blob is damaged or gone.

        Raises:
            As `live`.
        """
        digest = self._versions.get(version).live
        try:
            self._blobs.get(digest)
        except (BlobDamaged, BlobMissing) as error:
            self._remake(version, error)

    def _of(self, version: str) -> dict[str, LiveFact]:
        digest = self._versions.get(version).live
        try:
            return self._read(digest)
        except (BlobDamaged, BlobMissing) as error:
            self._remake(version, error)
            return self._read(digest)

    def _remake(self, version: str, lost: BlobDamaged | BlobMissing) -> None:
        """Put the ledger of a version where it was, and those before it that are lost too.

        Raises:
            BlobDamaged, BlobMissing: `lost`, if what the edits say is another ledger.
        """
        chain, before = [version], self._versions.get(version).parent
        while before is not None:
            try:
                self._read(self._versions.get(before).live)
                break
            except (BlobDamaged, BlobMissing):
                chain.append(before)
                before = self._versions.get(before).parent
        facts = [] if before is None else list(self._of(before).values())
        for one in reversed(chain):
            manifest = self._versions.get(one)
            tries = replayed(manifest, facts, self._edits)
            found = next((one for one in tries if _digest(one) == manifest.live), None)
            if found is None:
                raise lost
            _logger.warning("the ledger of %s is made again from its edits: %s", one, lost)
            self.put_live(found)
            facts = found

    def _index(self, number: int) -> None:
        try:
            version = self._versions.by_seq(number)
            if version is None:
                return
            added = self._versions.get(version).added
        except RecordDamaged as error:
            # It can be neither served nor mended; the history of all other facts still can.
            _logger.error("left out of the history of facts: %s", error)
            return
        for fact_id in added:
            self._added[fact_id].append(version)

    def _load(self, digest: str) -> dict[str, LiveFact]:
        data = self._blobs.get(digest)
        try:
            facts = _LIVE.validate_json(data)
        except ValidationError:  # it quotes the facts
            raise RecordDamaged(f"blob {digest}", "not a list of live facts") from None
        return {fact.id: fact for fact in facts}


def _digest(facts: Sequence[LiveFact]) -> str:
    return hashlib.sha256(_encoded(facts)).hexdigest()


def _encoded(facts: Sequence[LiveFact]) -> bytes:
    ordered = sorted(facts, key=lambda fact: fact.id)
    return canonical_json(_LIVE.dump_python(ordered, mode="json"))

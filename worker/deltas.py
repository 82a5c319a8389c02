"""Changes of matrices by the digest of their blob: just solved, or read from the registry."""

from __future__ import annotations

from collections.abc import Mapping

from contracts.ids import Digest
from memit_core.weights import Delta, decode_delta
from registry.blobs import Blobs


class Deltas:
    """One for all that read changes in a process; from any thread.

    The changes of the newest solution stay in memory: they are measured, loaded to be served and
    measured again, and a large model's are gigabytes.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._newest: dict[Digest, Delta] = {}

    def keep(self, solved: Mapping[Digest, Delta]) -> None:
        """Remember these, whose blobs are in the registry, instead of those before."""
        self._newest = dict(solved)

    def read(self, blob: Digest) -> Delta:
        """The change that is in a blob.

        Raises:
            BlobMissing, BlobDamaged: the registry lacks it.
            ValueError: the blob holds no change.
        """
        known = self._newest.get(blob)
        return decode_delta(self._blobs.get(blob)) if known is None else known

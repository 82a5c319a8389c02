"""What is computed once for a base model: context templates, covariance, z, the tokenizer."""

from __future__ import annotations

import logging

from pydantic import BaseModel

from contracts.ids import DIGEST, Digest
from registry.blobs import Blobs
from registry.derived import Derived
from registry.errors import BlobDamaged, BlobMissing
from registry.store import Store

log = logging.getLogger(__name__)


class Pointer(BaseModel):
    """What `models/<base>/<name>.json` holds: the blob of the first writer."""

    blob: Digest


class Artefacts:
    """Named bytes of one base model, put once; names are paths such as `templates` or `z/<hex>`.

    All of it can be computed again. What is damaged counts as not there, and is superseded by what
    is put next, see `Derived`.
    """

    def __init__(self, store: Store, blobs: Blobs, base: str) -> None:
        if not DIGEST.fullmatch(base):
            raise ValueError(f"not a digest of a base model: {base!r}")
        self._artefacts = Derived(store, Pointer, self._read)
        self._blobs = blobs
        self._base = base

    def get(self, name: str) -> bytes | None:
        """The bytes under `name`, verified; None if nobody has put them, or they are unreadable."""
        return self._artefacts.get(self._stem(name))

    def put_once(self, name: str, data: bytes) -> bytes:
        """Put `data` under `name` unless another writer was first; the bytes that stand.

        Where the first writer's bytes are lost, the same bytes mend them. Other bytes take their
        place only because the first ones cannot be had any more; versions that were solved from
        those keep their weights.

        Raises:
            StorageError: the storage is full or broken.
        """
        mine = Pointer(blob=self._blobs.put(data))
        standing = self._artefacts.put_once(self._stem(name), mine)
        return data if standing is None else standing

    def _read(self, pointer: Pointer) -> bytes | None:
        try:
            return self._blobs.get(pointer.blob)
        except (BlobMissing, BlobDamaged) as error:
            log.warning("%s: what it held has to be computed again", error)
            return None

    def _stem(self, name: str) -> str:
        return f"models/{self._base}/{name}"

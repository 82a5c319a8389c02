"""What is computed once for a base model: context templates, covariance, z, the tokenizer."""

from __future__ import annotations

import logging

from pydantic import BaseModel

from contracts.ids import DIGEST, Digest
from registry.blobs import Blobs
from registry.errors import BlobDamaged, BlobMissing
from registry.records import encode_record, read_record
from registry.store import Store

log = logging.getLogger(__name__)


class Pointer(BaseModel):
    """What `models/<base>/<name>.json` holds: the blob of the first writer."""

    blob: Digest


class Artefacts:
    """Named bytes of one base model, put once; names are paths such as `templates` or `z/<hex>`."""

    def __init__(self, store: Store, blobs: Blobs, base: str) -> None:
        if not DIGEST.fullmatch(base):
            raise ValueError(f"not a digest of a base model: {base!r}")
        self._store = store
        self._blobs = blobs
        self._base = base

    def get(self, name: str) -> bytes | None:
        """The bytes under `name`, verified; None if nobody has put them, or they are unreadable.

        Whoever computes them again mends what was damaged by `put_once`.
        """
        try:
            return self._standing(name)
        except (BlobMissing, BlobDamaged) as error:
            log.warning("%s has to be computed again: %s", name, error)
            return None

    def _standing(self, name: str) -> bytes | None:
        pointer = read_record(self._store, Pointer, self._key(name))
        return None if pointer is None else self._blobs.get(pointer.blob)

    def put_once(self, name: str, data: bytes) -> bytes:
        """Put `data` under `name` unless another writer was first; the bytes that stand.

        Putting the same bytes again mends a damaged blob. Other bytes never take the place of lost
        ones: versions were solved from those.

        Raises:
            BlobMissing: the first writer's blob is gone and `data` is not the same.
            BlobDamaged: the first writer's blob is damaged and `data` is not the same.
            StorageError: the storage is full or broken.
        """
        pointer = Pointer(blob=self._blobs.put(data))
        if self._store.put_if_absent(self._key(name), encode_record(pointer)):
            return data
        standing = self._standing(name)
        return data if standing is None else standing

    def _key(self, name: str) -> str:
        return f"models/{self._base}/{name}.json"

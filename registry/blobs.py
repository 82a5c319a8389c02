"""Content-addressed bytes: a blob's name is the SHA-256 of what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from contracts.ids import DIGEST
from registry.errors import BlobDamaged, BlobMissing, RecordDamaged
from registry.store import Store


class Blobs:
    """Blobs under `blobs/sha256/<first two hex>/<digest>`; every read is verified."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, data: bytes) -> str:
        """Keep `data`; its digest. A damaged blob in its place is replaced, and kept aside.

        Raises:
            StorageError: the storage is full or broken.
        """
        digest = hashlib.sha256(data).hexdigest()
        key = blob_key(digest)
        with suppress(RecordDamaged):
            if self._store.put_if_absent(key, data) or self._store.get(key) == data:
                return digest
        self._store.replace_damaged(key, data)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of this digest, verified.

        Raises:
            BlobMissing: there is no such blob.
            BlobDamaged: there is one, but its bytes hash to something else.
            ValueError: `digest` is not a digest.
        """
        with _named(digest):
            data = self._store.get(blob_key(digest))
        if data is None:
            raise BlobMissing(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobDamaged(digest)
        return data

    def stream(self, digest: str) -> Iterator[bytes]:
        """The same bytes piece by piece, never all in memory; verified before the last one is out.

        Raises:
            BlobMissing: there is no such blob; raised by the call.
            BlobDamaged: its bytes hash to something else; raised instead of the last piece.
            ValueError: `digest` is not a digest.
        """
        with _named(digest):
            pieces = self._store.stream(blob_key(digest))
        if pieces is None:
            raise BlobMissing(digest)
        return _verified(digest, pieces)

    def part(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` up to `stop`, piece by piece; not verified, as that would read them all.

        Raises:
            BlobMissing: there is no such blob.
            ValueError: `digest` is not a digest.
        """
        with _named(digest):
            pieces = self._store.stream(blob_key(digest), start, stop)
        if pieces is None:
            raise BlobMissing(digest)
        return pieces

    def size(self, digest: str) -> int | None:
        """How many bytes the blob has; None if there is none of this name.

        Raises:
            ValueError: `digest` is not a digest.
        """
        return self._store.size(blob_key(digest))

    def has(self, digest: str) -> bool:
        """Whether a blob of this name is there; its bytes are not looked at."""
        return self._store.exists(blob_key(digest))

    def quarantine(self, digest: str) -> None:
        """Rename a damaged blob aside, so that a sound one can be put; a sound one stays.

        Raises:
            ValueError: `digest` is not a digest.
        """
        try:
            self.get(digest)
        except BlobMissing:
            return
        except BlobDamaged:
            aside = self._store.set_aside(blob_key(digest))
            moved = None
            with suppress(RecordDamaged):
                moved = None if aside is None else self._store.get(aside)
            if moved is not None and hashlib.sha256(moved).hexdigest() == digest:
                # Another process was quicker: this was already its replacement.
                self._store.put_if_absent(blob_key(digest), moved)


@contextmanager
def _named(digest: str) -> Iterator[None]:
    """A link in the place of a blob is a damaged blob."""
    try:
        yield
    except RecordDamaged as error:
        raise BlobDamaged(digest) from error


def _verified(digest: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    found, held = hashlib.sha256(), b""
    for piece in pieces:
        found.update(piece)
        if held:
            yield held
        held = piece
    if found.hexdigest() != digest:
        raise BlobDamaged(digest)
    yield held


def blob_key(digest: str) -> str:
    """Where the blob of this digest lies.

    Raises:
        ValueError: it is not a digest.
    """
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"not a digest: {digest!r}")
    return f"blobs/sha256/{digest[:2]}/{digest}"

"""A version as one zip file, written while it is sent."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from registry.registry import Registry

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say; equal versions give equal files


def members(registry: Registry, version: str) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Name and pieces of each file of a checkpoint; no weights are in memory as a whole.

    Raises:
        BlobMissing, BlobDamaged: as the file with that blob is reached.
    """
    manifest = registry.versions.get(version)
    described = registry.versions.describe(version)
    yield "manifest.json", [described.model_dump_json(indent=2).encode()]
    yield "facts.json", registry.blobs.stream(manifest.live)
    for blob in dict.fromkeys(weight.blob for weight in manifest.weights):
        yield f"weights/{blob}.safetensors", registry.blobs.stream(blob)


def verify(registry: Registry, version: str) -> None:
    """Read every file once, so that a damaged one is found before an answer begins.

    Raises:
        BlobMissing, BlobDamaged: a file of the version cannot be sent.
    """
    for _, pieces in members(registry, version):
        for _ in pieces:
            pass


def zipped(files: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[bytes]:
    """The bytes of a zip of `files`, uncompressed: float matrices do not compress."""
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as archive:
        for name, pieces in files:
            # Its size is not known when it begins: it may be more than a plain zip's 2 GiB.
            with archive.open(ZipInfo(name, _EPOCH), "w", force_zip64=True) as member:
                for piece in pieces:
                    member.write(piece)
                    yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """A file that can only be written to, and emptied."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def taken(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

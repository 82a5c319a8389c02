"""A folder as an uncompressed tar, written while it is sent."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class TarFile:
    """A file to send: a tar says how long it is before it begins."""

    name: str
    size: int
    pieces: Iterable[bytes]

    @classmethod
    def of(cls, name: str, data: bytes) -> TarFile:
        return cls(name, len(data), [data])


def tarred(files: Iterable[TarFile]) -> Iterator[bytes]:
    """The bytes of a tar; equal files give equal bytes: owner, mode and time are always the same.

    Raises:
        ValueError: the pieces of a file are more or fewer bytes than it says.
    """
    for file in files:
        yield _head(file)
        sent = 0
        for piece in file.pieces:
            sent += len(piece)
            yield piece
        if sent != file.size:
            raise ValueError(f"{file.name}: {sent} bytes instead of {file.size}")
        yield b"\0" * (-sent % BLOCK)
    yield b"\0" * 2 * BLOCK


def tar_size(files: Sequence[TarFile]) -> int:
    """How many bytes `tarred` gives."""
    return sum(len(_head(file)) + file.size + -file.size % BLOCK for file in files) + 2 * BLOCK


def _head(file: TarFile) -> bytes:
    head = tarfile.TarInfo(file.name)
    head.size = file.size
    return head.tobuf(tarfile.PAX_FORMAT)

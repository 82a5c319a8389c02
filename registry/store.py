"""The one primitive under everything: put a whole file if it is absent.

Nothing is ever overwritten, so whatever was read once may be kept for good, and every race between
threads, processes or machines is decided by which put came first. Only what can be had again is
ever removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""One part of a key; none begins with a dot."""


class Store(Protocol):
    """Immutable files named by keys such as `edits/edit-01/request.json`; from any thread.

    Every method raises `ValueError` for a key that is not safe as a path, `StorageError` where the
    storage is full, broken or out of reach, and `RecordDamaged` where a link leads elsewhere.
    """

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put `data` under `key` unless something is there; durable when this returns.

        Returns:
            True if this call put it, False if the key was taken.

        Raises:
            StorageError: part of a file is never visible then; a whole one may be, since others may
                have built on it, and repeating the put says False.
        """

    def get(self, key: str) -> bytes | None:
        """The bytes under `key`; None if there are none."""

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes] | None:
        """The same from byte `start` up to `stop`, piece by piece."""

    def size(self, key: str) -> int | None:
        """How many bytes are under `key`; None if nothing is."""

    def age(self, key: str) -> float | None:
        """Seconds since the last put under `key`, one that found it taken too; None if none."""

    def exists(self, key: str) -> bool:
        """Whether something is under `key`."""

    def names(self, prefix: str) -> list[str]:
        """Sorted names of what lies directly under `prefix`; empty if there is nothing."""

    def replace_damaged(self, key: str, data: bytes) -> None:
        """Put the right bytes over damaged ones, a copy of which goes into `quarantine/`.

        At any time `key` has the ones or the others. Only for bytes that the key itself proves
        right, so that all who call this put the same.
        """

    def set_aside(self, key: str) -> str | None:
        """Move what is under `key` into `quarantine/`; the new key, or None if nothing was there.

        Only for bytes that are known to be damaged: the key is free again afterwards. Where the
        right ones are known, `replace_damaged` leaves no moment without either.
        """

    def remove(self, key: str, idle: float) -> bool:
        """Delete what is under `key`, if its `age` is at least `idle` seconds.

        Only for bytes that can be had again. Whoever puts them meanwhile and is told that they are
        there can rely on them for `idle` seconds.

        Returns:
            Whether this call deleted it.
        """


def parts_of(key: str) -> list[str]:
    """The parts of a key.

    Raises:
        ValueError: it is not safe as a path.
    """
    parts = key.split("/")
    if not all(PART.fullmatch(part) for part in parts):
        raise ValueError(f"not a safe key: {key!r}")
    return parts

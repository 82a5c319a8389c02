"""Real stores in which one thing goes wrong, or is counted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from registry.store import Store


class Killed(Exception):
    """The process is dead; nothing after this reaches the disk."""


class MortalStore(Store):
    """Dies before its put number `puts_left`, as a process killed in the middle of a put."""

    puts_left: int | None = None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.puts_left == 0:
            folder = (self.root / key).parent
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f".{len(data)}.tmp").write_bytes(data[: len(data) // 2])
            raise Killed(key)
        if self.puts_left is not None:
            self.puts_left -= 1
        return super().put_if_absent(key, data)


class FullDisk(Store):
    """Has no space for keys that contain `full`, unless that is empty."""

    full = ""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.full and self.full in key:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().put_if_absent(key, data)


class CountingStore(Store):
    """Counts how often the disk is looked at."""

    looks = 0

    def exists(self, key: str) -> bool:
        self.looks += 1
        return super().exists(key)

    def get(self, key: str) -> bytes | None:
        self.looks += 1
        return super().get(key)


class ContestedStore(Store):
    """Lets a rival in, once, just before the put of `key`."""

    key = ""
    rival: Callable[[], object]

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key == self.key:
            self.key = ""
            self.rival()
        return super().put_if_absent(key, data)

"""Stores to try the registry on: one in memory, and ones in which a thing goes wrong or counts."""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from registry import FolderStore
from registry.errors import StorageError
from registry.store import Store, parts_of


class MemoryStore:
    """A `Store` in a dictionary, in tests as good as a folder and much faster."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._put_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        parts_of(key)
        with self._lock:
            self._put_at[key] = time.time()
            if key in self.files:
                return False
            self.files[key] = data
            return True

    def get(self, key: str) -> bytes | None:
        parts_of(key)
        return self.files.get(key)

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes] | None:
        data = self.get(key)
        if data is None:
            return None
        data = data[start:stop]
        return iter([data[i : i + 100] for i in range(0, len(data), 100)])

    def size(self, key: str) -> int | None:
        data = self.get(key)
        return None if data is None else len(data)

    def age(self, key: str) -> float | None:
        return None if self.get(key) is None else max(0.0, time.time() - self._put_at[key])

    def exists(self, key: str) -> bool:
        return self.get(key) is not None

    def names(self, prefix: str) -> list[str]:
        depth = len(parts_of(prefix))
        with self._lock:
            below = [key for key in self.files if key.startswith(f"{prefix}/")]
        return sorted({key.split("/")[depth] for key in below})

    def replace_damaged(self, key: str, data: bytes) -> None:
        aside = f"quarantine/{parts_of(key)[-1]}.{uuid.uuid4().hex}"
        with self._lock:
            if key in self.files:
                self.files[aside] = self.files[key]
            self.files[key] = data

    def set_aside(self, key: str) -> str | None:
        aside = f"quarantine/{parts_of(key)[-1]}.{uuid.uuid4().hex}"
        with self._lock:
            if key not in self.files:
                return None
            self.files[aside] = self.files.pop(key)
        return aside

    def remove(self, key: str, idle: float) -> bool:
        with self._lock:
            age = self.age(key)
            if age is None or age < idle:
                return False
            del self.files[key]
        return True

    def grow_old(self, key: str, seconds: float) -> None:
        """As if it had been put so long ago."""
        self._put_at[key] = time.time() - seconds


def grow_old(store: Store, key: str, seconds: float) -> None:
    """Let a file look as if it had been put so many seconds ago."""
    if isinstance(store, FolderStore):
        then = time.time() - seconds
        os.utime(store.root / key, (then, then))
        return
    assert isinstance(store, MemoryStore)
    store.grow_old(key, seconds)


def damage(store: Store, key: str, data: bytes | None) -> None:
    """Overwrite or delete what is under `key` behind the store's back, as a broken disk would."""
    assert store.exists(key)
    if isinstance(store, FolderStore):
        (store.root / key).unlink()
        if data is not None:
            (store.root / key).write_bytes(data)
        return
    assert isinstance(store, MemoryStore)
    del store.files[key]
    if data is not None:
        store.files[key] = data


def copy_of(store: Store, version: str) -> str:
    """Key of the blob that is a version's manifest too."""
    head = version.partition("-")[2]
    [copy] = (name for name in store.names(f"blobs/sha256/{head[:2]}") if name.startswith(head))
    return f"blobs/sha256/{head[:2]}/{copy}"


def everything(store: Store) -> dict[str, bytes]:
    """All that is in a store, by key."""
    if isinstance(store, MemoryStore):
        return dict(store.files)
    assert isinstance(store, FolderStore)
    files = (path for path in store.root.rglob("*") if path.is_file())
    return {path.relative_to(store.root).as_posix(): path.read_bytes() for path in files}


class Wrapped:
    """A store that hands everything on."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.inner.put_if_absent(key, data)

    def get(self, key: str) -> bytes | None:
        return self.inner.get(key)

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes] | None:
        return self.inner.stream(key, start, stop)

    def size(self, key: str) -> int | None:
        return self.inner.size(key)

    def age(self, key: str) -> float | None:
        return self.inner.age(key)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def names(self, prefix: str) -> list[str]:
        return self.inner.names(prefix)

    def replace_damaged(self, key: str, data: bytes) -> None:
        self.inner.replace_damaged(key, data)

    def set_aside(self, key: str) -> str | None:
        return self.inner.set_aside(key)

    def remove(self, key: str, idle: float) -> bool:
        return self.inner.remove(key, idle)


class Killed(Exception):
    """The process is dead; nothing after this is written."""


class MortalStore(Wrapped):
    """Dies before its put number `puts_left`, as a process killed in the middle of a put."""

    puts_left: int | None = None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.puts_left == 0:
            if isinstance(self.inner, FolderStore):
                folder = (self.inner.root / key).parent
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f".{len(data)}.tmp").write_bytes(data[: len(data) // 2])
            raise Killed(key)
        if self.puts_left is not None:
            self.puts_left -= 1
        return super().put_if_absent(key, data)


class FullDisk(Wrapped):
    """Has no space for keys that contain `full`, unless that is empty."""

    full = ""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.full and self.full in key:
            raise StorageError(f"{key}: {os.strerror(errno.ENOSPC)}")
        return super().put_if_absent(key, data)


class CountingStore(Wrapped):
    """Counts how often the storage is looked at."""

    looks = 0

    def exists(self, key: str) -> bool:
        self.looks += 1
        return super().exists(key)

    def get(self, key: str) -> bytes | None:
        self.looks += 1
        return super().get(key)

    def names(self, prefix: str) -> list[str]:
        self.looks += 1
        return super().names(prefix)


class ContestedStore(Wrapped):
    """Lets a rival in, once, just before the put of `key`."""

    key = ""
    rival: Callable[[], object]

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key == self.key:
            self.key = ""
            self.rival()
        return super().put_if_absent(key, data)

"""A store in memory in which operations are lost, torn, delayed and repeated, as a seed says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from registry.errors import StorageError
from registry.store import parts_of

TORN = ("blobs/", "models/")
"""Where half a file may be left: what is verified by its digest and can be had again."""


_checked = lru_cache(maxsize=10_000)(parts_of)


class Killed(BaseException):
    """The process is dead; no code of ours catches this."""


@dataclass(frozen=True)
class Rates:
    """How often an operation goes wrong."""

    killed: float = 0.01
    """Before it, or right after it."""
    refused: float = 0.01
    """It fails and did nothing."""
    unanswered: float = 0.01
    """It fails, and a put was done all the same."""
    delayed: float = 0.01
    """A put fails, and is done some time later."""
    repeated: float = 0.02
    """A put is sent twice: it was done, and says that the key was taken."""
    torn: float = 0.5
    """Of the puts in which the process is killed, where the file may be half."""
    rival: float = 0.1
    """Another process goes on before it."""


CALM = Rates(0, 0, 0, 0, 0, 0, 0)


@dataclass
class Disk:
    """What all processes share: the files, and puts that are still on their way."""

    files: dict[str, bytes] = field(default_factory=dict)
    on_their_way: list[tuple[str, bytes]] = field(default_factory=list)

    def arrive(self) -> None:
        """All puts on their way are done."""
        for key, data in self.on_their_way:
            self.files.setdefault(key, data)
        self.on_their_way.clear()


class FaultyStore:
    """One process's way to the disk."""

    def __init__(
        self, disk: Disk, draw: Random, rates: Rates, before_each: Callable[[str, str], None]
    ) -> None:
        """Do nothing yet.

        Args:
            before_each: called before each operation with its name and key; others go on in it.
        """
        self.disk = disk
        self._draw = draw
        self._rates = rates
        self._before_each = before_each

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._begin("put", key)
        chance, rates = self._draw.random(), self._rates
        if chance < rates.killed:
            if key.startswith(TORN) and self._draw.random() < rates.torn:
                self.disk.files.setdefault(key, data[: len(data) // 2])
            elif self._draw.random() < 0.5:
                self.disk.files.setdefault(key, data)
            raise Killed(key)
        chance -= rates.killed
        if chance < rates.delayed:
            self.disk.on_their_way.append((key, data))
            raise StorageError(f"{key}: timed out, and comes later")
        chance -= rates.delayed
        new = key not in self.disk.files
        self.disk.files.setdefault(key, data)
        if chance < rates.unanswered:
            raise StorageError(f"{key}: no answer")
        return new and chance - rates.unanswered >= rates.repeated

    def get(self, key: str) -> bytes | None:
        self._begin("get", key)
        return self.disk.files.get(key)

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes] | None:
        data = self.get(key)
        return None if data is None else iter([data[start:stop]])

    def size(self, key: str) -> int | None:
        data = self.get(key)
        return None if data is None else len(data)

    def age(self, key: str) -> float | None:
        self._begin("age", key)
        return 1.0 if key in self.disk.files else None

    def exists(self, key: str) -> bool:
        self._begin("exists", key)
        return key in self.disk.files

    def names(self, prefix: str) -> list[str]:
        self._begin("names", prefix)
        depth = prefix.count("/") + 1
        below = (key for key in self.disk.files if key.startswith(f"{prefix}/"))
        return sorted({key.split("/")[depth] for key in below})

    def replace_damaged(self, key: str, data: bytes) -> None:
        self._begin("replace", key)
        files = self.disk.files
        if key in files:
            files[f"quarantine/{key.rpartition('/')[2]}.{len(files)}"] = files[key]
        chance = self._draw.random()
        if chance < self._rates.killed:
            raise Killed(key)
        files[key] = data
        if chance < self._rates.killed + self._rates.unanswered:
            raise StorageError(f"{key}: no answer")

    def set_aside(self, key: str) -> str | None:
        self._begin("set aside", key)
        if key not in self.disk.files:
            return None
        aside = f"quarantine/{key.rpartition('/')[2]}.{len(self.disk.files)}"
        self.disk.files[aside] = self.disk.files.pop(key)
        return aside

    def remove(self, key: str, idle: float) -> bool:  # noqa: ARG002 - all is old enough
        self._begin("remove", key)
        removed = self.disk.files.pop(key, None) is not None
        if self._draw.random() < self._rates.killed:
            raise Killed(key)
        return removed

    def _begin(self, operation: str, key: str) -> None:
        _checked(key)
        self._before_each(operation, key)
        chance = self._draw.random()
        if chance < self._rates.killed:
            raise Killed(key)
        if chance < self._rates.killed + self._rates.refused:
            raise StorageError(f"{key}: out of reach")
        if self.disk.on_their_way and self._draw.random() < 0.1:
            key, data = self.disk.on_their_way.pop(0)
            self.disk.files.setdefault(key, data)

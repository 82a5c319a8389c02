"""Where computed things of one base model are kept: templates, covariance, z.

Each is put once: the first writer wins, and every later one reads back what it wrote.
"""

from __future__ import annotations

from typing import Protocol


class Cache(Protocol):
    """Bytes by name, kept for one base model's digest."""

    def get(self, name: str) -> bytes | None:
        """The bytes, or None."""
        ...

    def put_once(self, name: str, data: bytes) -> bytes:
        """Keep `data` unless there is something; return what is kept."""
        ...


class MemoryCache:
    """A `Cache` that lives as long as the process, for notebooks."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self._kept.get(name)

    def put_once(self, name: str, data: bytes) -> bytes:
        return self._kept.setdefault(name, data)

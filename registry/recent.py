"""What was read last and can never change, for as long as there is room for it."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `size` values by key; the oldest go first. From any thread.

    Unlike `lru_cache` it keeps only what its owner puts: what is not there yet may come.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[K, V] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, if it is still kept."""
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value, in place of the oldest one if there is no room."""
        with self._lock:
            self._kept[key] = value
            if len(self._kept) > self._size:
                del self._kept[next(iter(self._kept))]

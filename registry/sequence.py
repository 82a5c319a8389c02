"""Logs of numbered records without gaps: `<prefix>/<n>.json`, appended by put-if-absent.

An append succeeds only directly after the tip that the caller saw, so whoever wins number n has
seen everything before it. That makes a log a compare-and-swap, and is what decides every race.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from pydantic import BaseModel

from registry.records import encode_record, read_record
from registry.store import Store

R = TypeVar("R", bound=BaseModel)


class SequenceLog(Generic[R]):
    """A log of records of one kind, numbered from `first`.

    Records are immutable, so each is read once; the known tip only moves forward.
    """

    def __init__(self, store: Store, prefix: str, kind: type[R], first: int = 0) -> None:
        self.first = first
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self._tip = first - 1
        self._records: dict[int, R] = {}
        self._lock = threading.Lock()

    def tip(self) -> int:
        """The newest number; `first - 1` when the log is empty.

        One look at the disk when nothing is new, else logarithmic: there are no gaps, so the
        distance doubles while something is found, then halves.
        """
        with self._lock:
            distance = 1
            while self._store.exists(self._key(self._tip + distance)):
                self._tip += distance
                distance *= 2
            while distance > 1:
                distance //= 2
                if self._store.exists(self._key(self._tip + distance)):
                    self._tip += distance
            return self._tip

    def read(self, number: int) -> R | None:
        """Record `number`; None if there is none (yet).

        Raises:
            RecordDamaged: the file is there but unreadable.
        """
        if number < self.first:
            return None
        record = self._records.get(number)
        if record is None:
            record = read_record(self._store, self._kind, self._key(number))
            if record is not None:
                self._records[number] = record
        return record

    def all(self, after: int | None = None) -> list[R]:
        """Every record from the one after number `after`, by default from the first, to the tip."""
        start = self.first if after is None else after + 1
        records = (self.read(number) for number in range(start, self.tip() + 1))
        return [record for record in records if record is not None]

    def append(self, number: int, record: R) -> bool:
        """Put `record` as `number`; False if it is taken or is not the one after the tip."""
        if number != self.tip() + 1:
            return False
        return self._store.put_if_absent(self._key(number), encode_record(record))

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number}.json"

"""Logs of numbered records without gaps: `<prefix>/<n>.json`, appended by put-if-absent.

An append succeeds only directly after the tip that the caller saw, so whoever wins number n has
seen everything before it. That makes a log a compare-and-swap, and is what decides every race.

A record that is damaged or gone keeps its number: what reads one record is told, what reads many
goes on without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import BaseModel

from registry.errors import RecordDamaged
from registry.recent import Recent
from registry.records import encode_record, read_record
from registry.store import Store

R = TypeVar("R", bound=BaseModel)

logger = logging.getLogger(__name__)

RECORDS_KEPT = 2_048
"""In memory, of each log. Some logs grow for as long as the registry is used."""


class SequenceLog(Generic[R]):
    """A log of records of one kind, numbered from `first`.

    Records are immutable: those that were read last are kept. The known tip only moves forward.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        kind: type[R],
        first: int = 0,
        rebuilt: Callable[[int], R | None] | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            rebuilt: a record that is damaged or gone, from what else is known; None if it is not.
        """
        self.first = first
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self._rebuilt = rebuilt
        self._tip: int | None = None
        self._records = Recent[int, R](RECORDS_KEPT)
        self._named: set[int] = set()
        self._lock = threading.Lock()

    def tip(self) -> int:
        """The newest number; `first - 1` when the log is empty.

        The first call lists the folder, so that it sees past a record that is gone. Then it is one
        look at the disk when nothing is new, else logarithmic: the distance doubles while something
        is found, then halves.
        """
        with self._lock:
            if self._tip is None:
                self._tip = self._newest()
                return self._tip
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
            RecordDamaged: the file is there but unreadable, or gone while later ones are there.
        """
        if number < self.first:
            return None
        record = self._records.get(number)
        if record is None:
            record = self._load(number)
            if record is not None:
                self._records.put(number, record)
        return record

    def numbered(self, after: int | None = None) -> tuple[list[tuple[int, R]], int]:
        """Every record that can be read, with its number, and the tip up to which was looked."""
        start, tip = self.first if after is None else after + 1, self.tip()
        found = ((number, self._sound(number)) for number in range(start, tip + 1))
        return [(number, record) for number, record in found if record is not None], tip

    def all(self, after: int | None = None) -> list[R]:
        """Every record that can be read, from the one after number `after`, by default all."""
        return [record for _, record in self.numbered(after)[0]]

    def window(self, limit: int, before: int | None) -> tuple[range, int | None]:
        """Up to `limit` numbers below `before`, newest first, and the `before` of the next page."""
        top = self.tip() if before is None else min(before - 1, self.tip())
        bottom = max(top - limit + 1, self.first)
        return range(top, bottom - 1, -1), bottom if bottom > self.first else None

    def page(self, limit: int, before: int | None) -> tuple[list[R], int | None]:
        """The records of a `window` that can be read, and the `before` of the next page."""
        numbers, following = self.window(limit, before)
        records = [self._sound(number) for number in numbers]
        return [record for record in records if record is not None], following

    def damaged(self, limit: int | None = None, before: int | None = None) -> list[RecordDamaged]:
        """What is wrong with the records of a `window` that cannot be read; by default of all."""
        numbers, _ = self.window(self.tip() + 1 if limit is None else limit, before)
        found = []
        for number in numbers:
            try:
                self.read(number)
            except RecordDamaged as error:
                found.append(error)
        return found

    def append(self, number: int, record: R) -> bool:
        """Put `record` as `number`; False if it is taken or is not the one after the tip."""
        if number != self.tip() + 1:
            return False
        return self._store.put_if_absent(self._key(number), encode_record(record))

    def _load(self, number: int) -> R | None:
        try:
            record = self._stored(number)
            if record is None and number <= self.tip():
                record = self._stored(number)  # it may have come between the two looks
                if record is None:
                    raise RecordDamaged(self._key(number), "it is gone")
        except RecordDamaged as error:
            record = None if self._rebuilt is None else self._rebuilt(number)
            if record is None:
                raise
            logger.warning("%s: what it said is known from elsewhere", error)
        return record

    def _stored(self, number: int) -> R | None:
        return read_record(self._store, self._kind, self._key(number))

    def _sound(self, number: int) -> R | None:
        """As `read`; None for a damaged record too, which is logged once."""
        try:
            return self.read(number)
        except RecordDamaged as error:
            if number not in self._named:
                self._named.add(number)
                logger.error("%s; everything else goes on, see `memit doctor`", error)
            return None

    def _newest(self) -> int:
        names = (name.removesuffix(".json") for name in self._store.names(self._prefix))
        return max((int(name) for name in names if name.isdecimal()), default=self.first - 1)

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number}.json"

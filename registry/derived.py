"""Records of what can be computed again: a damaged one is superseded by the next beside it.

The first lies in `<stem>.json`, those that supersede it in `<stem>.1.json`, `<stem>.2.json`. Each
is put once; the first sound one stands. So nothing is overwritten or moved, and of several that
mend at the same time one wins, as with any put.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

from pydantic import BaseModel

from registry.errors import RecordDamaged
from registry.records import encode_record, read_record
from registry.store import Store

R = TypeVar("R", bound=BaseModel)
V = TypeVar("V")

logger = logging.getLogger(__name__)


class Derived(Generic[R, V]):
    """Records of one kind, each by the stem of its key."""

    def __init__(self, store: Store, kind: type[R], value: Callable[[R], V | None]) -> None:
        """Read nothing yet.

        Args:
            value: what a record stands for; None if that is lost.
        """
        self._store = store
        self._kind = kind
        self._value = value

    def get(self, stem: str) -> V | None:
        """What stands; None if nothing does."""
        return self._find(stem)[0]

    def put_once(self, stem: str, record: R) -> V | None:
        """Put `record` unless something stands; that, or None if it is this record now."""
        while True:
            standing, free = self._find(stem)
            if standing is not None:
                return standing
            if self._store.put_if_absent(key_of(stem, free), encode_record(record)):
                return None

    def _find(self, stem: str) -> tuple[V | None, int]:
        """The value of the first sound record, and the first place after the damaged ones."""
        free = 0
        for number in count():
            key = key_of(stem, number)
            try:
                record = read_record(self._store, self._kind, key)
            except RecordDamaged as error:
                logger.warning("%s; what it said is computed again and put beside it", error)
                free = number + 1
                continue
            if record is not None:
                value = self._value(record)
                if value is not None:
                    return value, number
                free = number + 1
            elif number > 0:  # the first may have been set aside, and those after it stand
                return None, free
        raise AssertionError("unreachable")


def key_of(stem: str, number: int) -> str:
    """Where record `number` of this stem lies."""
    return f"{stem}.{number}.json" if number else f"{stem}.json"

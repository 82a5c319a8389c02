"""How many answers each key has open in this process: generations, and events of edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from contracts import retry_after as after
from contracts.errors import FieldError, TooManyRequests
from contracts.keys import LOCAL
from service.principal import Principal


class OpenAnswers:
    """Counts them; who needs no key has no limit but that of connections."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one_more(self, principal: Principal) -> Iterator[None]:
        """While its answer is open.

        Raises:
            TooManyRequests: the key has as many as it may.
        """
        if principal.id != LOCAL and self._open[principal.id] >= self._most:
            reason = f"{principal.id} has {self._most} answers open already"
            errors = [FieldError(field="", reason=reason, limit=self._most)]
            raise TooManyRequests(reason, errors=errors, retry_after=after.ENGINE_BUSY)
        self._open[principal.id] += 1
        try:
            yield
        finally:
            self._open[principal.id] -= 1
            if not self._open[principal.id]:
                del self._open[principal.id]

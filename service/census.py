"""How many edits there are of each state."""

from __future__ import annotations

import logging
from collections import Counter

from contracts.edits import EditState
from registry.describe import running
from registry.edits import Edits
from registry.errors import RecordDamaged

log = logging.getLogger(__name__)

_PAGE = 500


class EditCensus:
    """Counts edits by state; what has ended is looked at once."""

    def __init__(self, edits: Edits) -> None:
        self._edits = edits
        self._ended: Counter[EditState] = Counter()
        self._open: set[str] = set()
        self._seen: set[str] = set()

    def count(self) -> dict[EditState, int]:
        """Edits by state now. Not for several threads at a time."""
        self._open.update(self._new())
        now: Counter[EditState] = Counter()
        for edit_id in sorted(self._open):
            try:
                end = self._edits.end(edit_id)
            except RecordDamaged as error:
                log.warning("%s is counted in no state: %s", edit_id, error)
                continue
            if end is not None:
                self._ended[end.state] += 1
                self._open.discard(edit_id)
            else:
                begun = running(self._edits.steps(edit_id))
                now[EditState.RUNNING if begun else EditState.QUEUED] += 1
        return now + self._ended

    def _new(self) -> list[str]:
        found: list[str] = []
        before: int | None = None
        while True:
            ids, before = self._edits.page(_PAGE, before)
            fresh = [edit_id for edit_id in ids if edit_id not in self._seen]
            found += fresh
            if before is None or len(fresh) < len(ids):
                self._seen.update(found)
                return found

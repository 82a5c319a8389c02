"""Work ahead of an edit's turn: while another worker edits, this one optimises z for what waits.

z is kept by content, whoever computes it: when the edit's turn comes, its z are there.
"""

from __future__ import annotations

import logging
import threading

from structlog.contextvars import bound_contextvars

from contracts.edits import StepKind
from contracts.errors import ServiceError
from contracts.versions import ACTIVE
from memit_core.errors import Cancelled, MemitError
from registry.errors import RegistryError
from registry.registry import Registry
from worker.changes import Changes
from worker.make_version import VersionMaker
from worker.progress import Interrupted

log = logging.getLogger(__name__)


class WorkAhead:
    """Prepares edits that wait on one worker, while the registry's editor is another one."""

    def __init__(
        self, registry: Registry, maker: VersionMaker, changes: Changes, stopping: threading.Event
    ) -> None:
        self._registry = registry
        self._maker = maker
        self._changes = changes
        self._stopping = stopping

    def prepare(self, edit_id: str) -> None:
        """Compute what the edit will need, until its turn comes.

        Raises:
            Interrupted: this worker is stopping.
        """
        with bound_contextvars(edit_id=edit_id):
            try:
                self._checked(edit_id)("z", 0, 1)
                edit = self._registry.edits.get(edit_id)
                parent = self._registry.versions.resolve(edit.request.base or ACTIVE)
                self._maker.work_ahead(edit, parent, self._checked(edit_id))
                log.info("%s is prepared and waits for its turn", edit_id)
            except Interrupted:
                raise
            except Cancelled as reason:
                log.info("%s is not prepared any further: %s", edit_id, reason)
            except (ServiceError, MemitError, RegistryError) as error:
                # Whatever it is, the edit meets it again in its turn and ends with it.
                log.info("%s cannot be prepared: %s", edit_id, error)

    def _checked(self, edit_id: str) -> _UntilItsTurn:
        return _UntilItsTurn(edit_id, self._registry, self._changes, self._stopping)


class _UntilItsTurn:
    """A progress callback that raises `Cancelled` once the edit is run or has ended."""

    def __init__(
        self, edit_id: str, registry: Registry, changes: Changes, stopping: threading.Event
    ) -> None:
        self._edit_id = edit_id
        self._edits = registry.edits
        self._poll = changes.timer()
        self._stopping = stopping

    def __call__(self, stage: str, done: int, total: int, *, loss: float | None = None) -> None:  # noqa: ARG002
        if self._stopping.is_set():
            raise Interrupted("the worker is stopping")
        if not self._poll.due():
            return
        if self._edits.end(self._edit_id) is not None:
            raise Cancelled("it has ended")
        kinds = [step.kind for step in self._edits.steps(self._edit_id)]
        if kinds and kinds[-1] is not StepKind.REQUEUED:
            raise Cancelled("its turn has come")

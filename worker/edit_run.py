"""One edit from the queue to its end: start, make the version, commit, activate, end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError
from structlog.contextvars import bound_contextvars

from contracts import tracing
from contracts.edits import AcceptedEdit, EditEnd, EditState, StepKind
from contracts.errors import Conflict, Problem, ServiceError
from contracts.transport import CHANGES_CHANNEL
from contracts.versions import ACTIVE, VersionManifest, VersionStatus
from memit_core.errors import Cancelled, InvalidFact, MemitError, UnknownOption
from memit_core.precision import out_of_memory
from registry.activation import activation_epoch, bound_epoch
from registry.errors import (
    BlobDamaged,
    BlobMissing,
    RecordDamaged,
    RegistryError,
    StorageError,
)
from registry.finish import finish_edit
from registry.kinds import explained
from registry.registry import Registry
from worker.ahead import WorkAhead
from worker.changes import Changes
from worker.editor_lock import editor_lock
from worker.make_version import VersionMaker
from worker.openmp import release_threads
from worker.origins import origin_of
from worker.progress import EditProgress, Interrupted

log = logging.getLogger(__name__)

MAX_CRASHES = 5
"""Attempts that may end without a word (a killed worker) before the edit is given up."""


class EditRunner:
    """Runs edits, one at a time per registry, in the order in which they were accepted."""

    def __init__(
        self,
        registry: Registry,
        maker: VersionMaker,
        redis: Redis,
        worker: str,
        stopping: threading.Event,
        changes: Changes,
        warm_up: Callable[[str], str | None],
    ) -> None:
        """Run nothing yet.

        Args:
            warm_up: has engines load a version that is about to become active; why it must not, or
                None.
        """
        self._registry = registry
        self._maker = maker
        self._redis = redis
        self._worker = worker
        self._stopping = stopping
        self._changes = changes
        self._warm_up = warm_up
        self._ahead = WorkAhead(registry, maker, changes, stopping)
        self._span = tracing.NO_SPAN
        self.current: str | None = None
        """The edit being run, for the worker's status."""

    def run(self, edit_id: str) -> None:
        """The job: run all edits that have not ended, unless another live worker does.

        Then it works ahead on this one and gives the job back: the other worker looks again for
        edits after it has let go of the lock. Safe to repeat: an edit that has ended, or whose
        version is in the log, is not run again.

        Raises:
            Interrupted: this worker is stopping; the edit is queued again.
            StorageError: the storage fails; edits that have not ended are queued again.
        """
        tried: set[str] = set()
        while True:
            with editor_lock(self._redis, self._worker, self._stopping) as mine:
                if mine:
                    self._run_waiting(tried)
            if not mine:
                return self._ahead.prepare(edit_id)
            if tried.issuperset(self._registry.edits.unfinished()):
                return None

    def _run_waiting(self, tried: set[str]) -> None:
        """Run what has not ended, oldest first, until nothing is left but what was tried before."""
        while waiting := [one for one in self._registry.edits.unfinished() if one not in tried]:
            self.current = waiting[0]
            tried.add(self.current)
            try:
                self._run_traced(self.current)
            finally:
                self.current = None
                release_threads()

    def _run_traced(self, edit_id: str) -> None:
        """Run it under the ids and in the trace of the request that it comes from."""
        origin = origin_of(edit_id, self._redis)
        with (
            bound_contextvars(edit_id=edit_id, **origin.ids),
            tracing.span("memit.edit", origin.traceparent, edit=edit_id) as self._span,
        ):
            try:
                self._run_one(edit_id)
            except StorageError:
                raise
            except RegistryError as error:
                self._span.fail(type(error).__name__)
                log.exception("%s cannot be run; those after it go on", edit_id)

    def _run_one(self, edit_id: str) -> None:
        edits = self._registry.edits
        decided = None if edits.end(edit_id) else edits.decided(edit_id)
        if decided is None and finish_edit(self._registry, edit_id) is not None:
            return self._announce(edit_id)
        try:
            edit = edits.get(edit_id)
        except RecordDamaged as error:
            log.error("%s cannot be run: %s", edit_id, explained(error))
            problem = _problem(500, "Edit failed", explained(error))
            return self._end(edit_id, EditState.FAILED, problem)
        self._span.set(facts=len(edit.request.facts))
        if self._crashes(edit_id) >= MAX_CRASHES:
            detail = f"a worker died {MAX_CRASHES} times while it ran this edit"
            return self._end(edit_id, EditState.FAILED, _problem(500, "Edit failed", detail))
        progress = EditProgress(
            edit_id, self._registry, self._redis, self._stopping, self._changes.timer()
        )
        try:
            if decided is None:  # else an attempt that was cut short has made it
                decided, epoch = self._make(edit, progress)
                if not edits.begin_commit(edit_id, self._worker, epoch, decided):
                    raise Cancelled("cancelled by request")
            self._commit(edit_id, decided)
        except Interrupted:
            edits.requeue(edit_id, self._worker)
            self._announce(edit_id)
            raise
        except Cancelled:
            self._end(edit_id, EditState.CANCELLED, None)
        except ServiceError as error:
            self._end(edit_id, EditState.FAILED, error.problem(), error)
        except InvalidFact as error:
            self._end(edit_id, EditState.FAILED, _problem(422, "Invalid fact", str(error)), error)
        except UnknownOption as error:
            self._end(edit_id, EditState.FAILED, _problem(422, "Unknown option", str(error)), error)
        except MemitError as error:
            self._end(edit_id, EditState.FAILED, _problem(500, "Edit failed", str(error)), error)
        except (BlobDamaged, BlobMissing, RecordDamaged) as error:
            log.exception("%s failed", edit_id)
            problem = _problem(500, "Edit failed", explained(error))
            self._end(edit_id, EditState.FAILED, problem)
        except Exception as error:
            log.exception("%s failed", edit_id)
            detail = f"{type(error).__name__}: {error}"[:1_000]
            if out_of_memory(error):
                detail = f"out of memory; free some on the device or use a larger one ({detail})"
            self._end(edit_id, EditState.FAILED, _problem(500, "Edit failed", detail))
        finally:
            progress.close()

    def _make(
        self, edit: AcceptedEdit, progress: EditProgress
    ) -> tuple[VersionManifest, int | None]:
        """The manifest, and the epoch of `active` that activation is bound to (None: none)."""
        active = self._registry.aliases.get(ACTIVE)
        if active is None:
            raise Conflict("the registry has no alias `active`")
        base = edit.request.base and self._registry.versions.resolve(edit.request.base)
        parent = base or active.version
        epoch = activation_epoch(active, base, edit.request.activate, edit.if_match)
        if not self._registry.edits.start(edit.id, self._worker, parent, epoch):
            raise Cancelled("cancelled by request")
        self._announce(edit.id)
        return self._maker.make(edit, parent, progress), epoch

    def _commit(self, edit_id: str, manifest: VersionManifest) -> None:
        """Put the version in the log, move `active`, end the edit."""
        with tracing.span("memit.edit.commit"):
            self._commit_now(edit_id, manifest)

    def _commit_now(self, edit_id: str, manifest: VersionManifest) -> None:
        version = self._registry.versions.commit_as_next(manifest)
        hold_back = None
        epoch = bound_epoch(self._registry, edit_id)
        if epoch is not None and manifest.status is VersionStatus.COMMITTED:
            hold_back = self._warm_up(version)
        with bound_contextvars(version_id=version):
            end = finish_edit(self._registry, edit_id, hold_back=hold_back)
            state = "unfinished" if end is None else end.state
            log.info("%s ended: %s", edit_id, state)
        self._span.set(version=version, state=state)
        self._announce(edit_id)

    def _crashes(self, edit_id: str) -> int:
        kinds = [step.kind for step in self._registry.edits.steps(edit_id)]
        return kinds.count(StepKind.RUNNING) - kinds.count(StepKind.REQUEUED)

    def _end(
        self,
        edit_id: str,
        state: EditState,
        problem: Problem | None,
        error: Exception | None = None,
    ) -> None:
        """End it; the log has the `error` without the texts that the problem may quote."""
        end = EditEnd(state=state, at=time.time(), problem=problem)
        try:
            end = self._registry.edits.finish(edit_id, end)
        except Conflict:
            # An attempt that was thought dead commits it.
            end = finish_edit(self._registry, edit_id) or end
        if problem is None:
            log.info("%s ended: %s", edit_id, end.state)
        else:
            log.info("%s ended: %s (%s)", edit_id, end.state, error or problem.title)
            self._span.fail(problem.title)
        self._span.set(state=end.state)
        self._announce(edit_id)

    def _announce(self, what: str) -> None:
        try:
            self._redis.publish(CHANGES_CHANNEL, what)
        except RedisError as error:
            log.warning("no notice of the change of %s: %s", what, error)


def _problem(status: int, title: str, detail: str) -> Problem:
    slug = title.lower().replace(" ", "-")
    return Problem(type=f"/problems/{slug}", title=title, status=status, detail=detail)

"""One edit from the queue to its end: start, make the version, commit, activate, end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import LockError, RedisError

from contracts.edits import AcceptedEdit, EditEnd, EditState, StepKind
from contracts.errors import Conflict, Problem, ServiceError
from contracts.transport import CHANGES_CHANNEL, EDITOR_LOCK
from contracts.versions import VersionManifest, VersionStatus
from memit_core.errors import Cancelled, InvalidFact, MemitError
from memit_core.precision import out_of_memory
from registry.commit import ACTIVE, settle
from registry.errors import RecordDamaged, RegistryError
from registry.registry import Registry
from worker.make_version import VersionMaker
from worker.openmp import release_threads
from worker.progress import EditProgress, Interrupted

log = logging.getLogger(__name__)

LOCK_SECONDS = 15.0
WARM_SECONDS = 30.0
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
        warm: Callable[[str], Future[None]],
    ) -> None:
        """Run nothing yet.

        Args:
            warm: has this worker's engine load a version.
        """
        self._registry = registry
        self._maker = maker
        self._redis = redis
        self._worker = worker
        self._stopping = stopping
        self._warm = warm
        self.current: str | None = None
        """The edit being run, for the worker's status."""

    def run(self, edit_id: str) -> None:
        """The job: run this edit, and first all that were accepted before it and have not ended.

        Safe to repeat: an edit that has ended, or whose version is in the log, is not run again.

        Raises:
            Interrupted: this worker is stopping; the edit is queued again.
        """
        with self._only_editor():
            for pending in self._registry.edits.unfinished():
                self.current = pending
                try:
                    self._run_one(pending)
                except RegistryError:
                    if pending == edit_id:
                        raise
                    log.exception("%s cannot be run; those after it go on", pending)
                finally:
                    self.current = None
                    release_threads()
                if pending == edit_id:
                    return

    def _run_one(self, edit_id: str) -> None:
        edits = self._registry.edits
        if settle(self._registry, edit_id) is not None:
            return self._nudge(edit_id)
        try:
            edit = edits.get(edit_id)
        except RecordDamaged as error:
            return self._end(edit_id, EditState.FAILED, _problem(500, "Edit failed", str(error)))
        if self._crashes(edit_id) >= MAX_CRASHES:
            detail = f"a worker died {MAX_CRASHES} times while it ran this edit"
            return self._end(edit_id, EditState.FAILED, _problem(500, "Edit failed", detail))
        progress = EditProgress(edit_id, self._registry, self._redis, self._stopping)
        try:
            manifest, epoch = self._make(edit, progress)
            if not edits.begin_commit(edit_id, self._worker, epoch):
                raise Cancelled("cancelled by request")
            self._commit(edit_id, manifest)
        except Interrupted:
            edits.requeue(edit_id, self._worker)
            self._nudge(edit_id)
            raise
        except Cancelled:
            self._end(edit_id, EditState.CANCELLED, None)
        except ServiceError as error:
            self._end(edit_id, EditState.FAILED, error.problem())
        except InvalidFact as error:
            self._end(edit_id, EditState.FAILED, _problem(422, "Invalid fact", str(error)))
        except MemitError as error:
            self._end(edit_id, EditState.FAILED, _problem(500, "Edit failed", str(error)))
        except Exception as error:
            log.exception("%s failed", edit_id)
            detail = f"{type(error).__name__}: {error}"[:1_000]
            if out_of_memory(error):
                detail = f"out of memory; free some on the device or use a larger one ({detail})"
            self._end(edit_id, EditState.FAILED, _problem(500, "Edit failed", detail))

    def _make(
        self, edit: AcceptedEdit, progress: EditProgress
    ) -> tuple[VersionManifest, int | None]:
        """The manifest, and the epoch of `active` that activation is bound to (None: none)."""
        active = self._registry.aliases.get(ACTIVE)
        if active is None:
            raise Conflict("the registry has no alias `active`")
        request = edit.request
        parent = active.version
        epoch: int | None = active.epoch
        if request.base is not None:
            parent = self._registry.versions.resolve(request.base)
            # A branch is activated only when its client says what it expects to replace.
            epoch = edit.if_match if parent != active.version else active.epoch
        if edit.if_match is not None:
            epoch = edit.if_match
        if request.activate is False:
            epoch = None
        if not self._registry.edits.start(edit.id, self._worker, parent, epoch):
            raise Cancelled("cancelled by request")
        self._nudge(edit.id)
        return self._maker.make(edit, parent, progress), epoch

    def _commit(self, edit_id: str, manifest: VersionManifest) -> None:
        """Put the version in the log, move `active`, end the edit."""
        while self._registry.versions.commit(manifest) is None:
            # Another editor took the number; the facts' `since` only names the first number tried.
            manifest = manifest.model_copy(update={"seq": self._registry.versions.tip() + 1})
        end = settle(self._registry, edit_id, activate=self._warm_up(edit_id))
        log.info("%s ended: %s", edit_id, end)
        self._nudge(edit_id)

    def _warm_up(self, edit_id: str) -> bool:
        """Load the version here before `active` names it, so that no request waits for it.

        Returns:
            False if it cannot be loaded (no memory, a canary that fails): what serves goes on.
        """
        version = self._registry.versions.of_edit(edit_id)
        manifest = None if version is None else self._registry.versions.get(version)
        if version is None or manifest is None or manifest.dry_run:
            return True
        if manifest.status is VersionStatus.REJECTED:
            return True
        try:
            self._warm(version).result(WARM_SECONDS)
        except TimeoutError:
            log.warning("%s is not loaded after %.0f s", version, WARM_SECONDS)
        except ServiceError as error:
            log.error("%s is committed but not activated: %s", version, error)
            return False
        return True

    def _crashes(self, edit_id: str) -> int:
        kinds = [step.kind for step in self._registry.edits.steps(edit_id)]
        return kinds.count(StepKind.RUNNING) - kinds.count(StepKind.REQUEUED)

    def _end(self, edit_id: str, state: EditState, problem: Problem | None) -> None:
        end = EditEnd(state=state, at=time.time(), problem=problem)
        try:
            end = self._registry.edits.finish(edit_id, end)
        except Conflict:
            # Its version is in the log after all: an attempt that was thought dead committed it.
            settle(self._registry, edit_id)
        log.info("%s ended: %s%s", edit_id, end.state, f" ({problem.detail})" if problem else "")
        self._nudge(edit_id)

    def _nudge(self, what: str) -> None:
        try:
            self._redis.publish(CHANGES_CHANNEL, what)
        except RedisError as error:
            log.warning("nobody was told of %s: %s", what, error)

    @contextmanager
    def _only_editor(self) -> Iterator[None]:
        """Hold the lock of the registry's one editor, renewed while this runs.

        The lock saves work. What makes two editors harmless, should Redis lose it, are the
        registry's own put-if-absent logs.
        """
        lock = self._redis.lock(EDITOR_LOCK, timeout=LOCK_SECONDS, thread_local=False)
        while not lock.acquire(blocking_timeout=1):
            if self._stopping.is_set():
                raise Interrupted("the worker is stopping")
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LOCK_SECONDS / 3):
                try:
                    lock.reacquire()
                except (LockError, RedisError) as error:
                    log.warning("the editor lock was not renewed: %s", error)

        renewer = threading.Thread(target=renew, name="editor-lock", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            done.set()
            renewer.join()
            try:
                lock.release()
            except (LockError, RedisError) as error:
                log.warning("the editor lock was gone before it was released: %s", error)


def _problem(status: int, title: str, detail: str) -> Problem:
    slug = title.lower().replace(" ", "-")
    return Problem(type=f"/problems/{slug}", title=title, status=status, detail=detail)

"""The editor role: what one worker needs to write facts, from its queue to the full reports."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError
from rq.queue import Queue
from rq.serializers import JSONSerializer

from contracts.ids import EDIT_ID, VERSION_ID
from contracts.settings import Settings
from contracts.transport import EDIT_QUEUE, REBUILD_JOB, RUN_EDIT_JOB
from memit_core.corpus import read_corpus
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.hparams import HParams, from_file
from memit_core.loading import LoadedModel
from memit_core.methods import METHODS, Method
from registry.registry import Registry
from worker.changes import Changes
from worker.deltas import Deltas
from worker.edit_run import EditRunner
from worker.full_report import FullReporter
from worker.garbage import leave_what_is_here
from worker.lineage import begin_lineage, begun_with
from worker.make_version import VersionMaker
from worker.openmp import release_threads
from worker.progress import Interrupted
from worker.recovery import Recovery
from worker.rq_worker import Allowed, ResidentWorker, allow_only
from worker.starting import Starting

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 1.0


class Editing:
    """The editor of one worker; knows of engines only what it is given.

    Raises:
        MemitError: the model cannot be edited, or the registry belongs to another one.
    """

    def __init__(
        self, settings: Settings, loaded: LoadedModel, registry: Registry, deltas: Deltas
    ) -> None:
        self.editor = Editor(
            loaded,
            _hparams(settings, registry, loaded),
            corpus=None if settings.corpus is None else read_corpus(settings.corpus),
            cache=registry.artefacts(loaded.digest),
            max_tokens=settings.max_fact_tokens,
            z_dtype=settings.z_dtype,
            scratch=settings.scratch_path,
            save_seconds=settings.scratch_save_seconds,
            network=settings.mend,
        )
        method = method_of(settings, self.editor)
        self.base_version = begin_lineage(registry, self.editor, method)
        self.maker = VersionMaker(registry, self.editor, settings, method, deltas)
        self.ready = threading.Event()
        """Set when nothing has to be prepared before an edit."""
        self._settings = settings
        self._registry = registry
        self._deltas = deltas
        self._runner: EditRunner | None = None

    @property
    def current(self) -> str | None:
        """The edit that is being run."""
        return None if self._runner is None else self._runner.current

    def work(
        self,
        worker: str,
        stopping: threading.Event,
        changes: Changes,
        warm_up: Callable[[str], str | None],
        generating: Callable[[], bool],
        starting: Starting,
    ) -> None:
        """Prepare, then run jobs until `stopping`; in the main thread, as RQ wants it.

        Args:
            worker: this worker's id.
            warm_up: see `EditRunner`.
            generating: whether rows are being generated now on the same device.
            starting: is told how far the preparation is.
        """
        redis = Redis.from_url(self._settings.redis(), health_check_interval=30)
        self._runner = EditRunner(
            self._registry, self.maker, redis, worker, stopping, changes, warm_up
        )
        reporter = FullReporter(
            self._registry,
            self.editor,
            redis,
            self._deltas,
            self._settings.report_max_facts,
            self._settings.max_context,
            changes,
            editing=lambda: self.current is not None,
            generating=generating,
        )
        threads = [_begin("recovery", Recovery(self._registry, redis).keep_sweeping, stopping)]
        try:
            self._prepare(stopping, starting)
            threads.append(_begin("full-report", reporter.keep_reporting, stopping))
            self._take_jobs(worker, stopping, self._runner)
        finally:
            stopping.set()
            for thread in threads:
                thread.join(timeout=5)

    def _prepare(self, stopping: threading.Event, starting: Starting) -> None:
        """What every edit needs, before the first one asks for it."""

        def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
            if stopping.is_set():
                raise Interrupted("the worker is stopping")
            starting(stage, done, total, loss=loss)

        try:
            self.maker.prepare(progress)
        except Interrupted:
            return
        except Exception:
            # A full disk or a damaged record must not take generation down as well.
            log.exception("not prepared to edit: each edit will try again")
            return
        finally:
            release_threads()
            leave_what_is_here()
            starting.finish()
        self.ready.set()
        log.info("ready to edit")

    def _take_jobs(self, worker: str, stopping: threading.Event, runner: EditRunner) -> None:
        """RQ's loop, entered again when Redis went away under it."""
        # RQ waits for jobs in a blocking read, longer than redis-py's default time-out.
        redis = Redis.from_url(self._settings.redis(), socket_timeout=None)
        jobs = {
            RUN_EDIT_JOB: Allowed(runner.run, EDIT_ID),
            REBUILD_JOB: Allowed(self.maker.rebuild, VERSION_ID),
        }
        rounds = 0
        while not stopping.is_set():
            rounds += 1
            try:
                rq_worker = ResidentWorker(
                    [Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)],
                    name=f"{worker}.{rounds}",
                    connection=redis,
                    serializer=JSONSerializer,
                    job_class=allow_only(jobs),
                    stopping=stopping,
                )
                rq_worker.work(logging_level="WARNING")
            except RedisError as error:
                log.warning("RQ lost Redis: %s", error)
            stopping.wait(RECONNECT_SECONDS)


def _begin(
    name: str, body: Callable[[threading.Event], None], stopping: threading.Event
) -> threading.Thread:
    thread = threading.Thread(target=body, args=(stopping,), name=name, daemon=True)
    thread.start()
    return thread


def method_of(settings: Settings, editor: Editor) -> Method:
    """The editing method that the settings name.

    Raises:
        MemitError: there is none of that name.
    """
    if settings.method not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise MemitError(f"there is no editing method {settings.method!r}; there is {known}")
    return METHODS[settings.method](editor)


def _hparams(settings: Settings, registry: Registry, loaded: LoadedModel) -> HParams | None:
    if settings.hparams is not None:
        return from_file(settings.hparams)
    kept = begun_with(registry, loaded.digest)
    if kept is not None:
        log.info("hyperparameters: those that the registry was begun with")
    return kept

"""The worker process: one resident model, generation in its own thread, edits in the main one."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from types import FrameType

from redis import Redis
from redis.exceptions import RedisError
from rq.queue import Queue
from rq.serializers import JSONSerializer

from contracts.errors import ServiceError
from contracts.settings import Settings
from contracts.transport import EDIT_QUEUE, RUN_EDIT_JOB
from memit_core.corpus import read_corpus
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.hparams import HParams, from_file
from memit_core.loading import LoadedModel, load_model
from memit_core.methods import METHODS, Method
from registry.errors import RegistryError
from registry.registry import Registry
from worker.deltas import Deltas
from worker.edit_run import EditRunner
from worker.engine.thread import EngineThread
from worker.full_report import FullReporter
from worker.lineage import begin_lineage, begun_with
from worker.make_version import VersionMaker
from worker.openmp import release_threads
from worker.progress import Interrupted
from worker.recovery import Recovery
from worker.rq_worker import ResidentWorker, allow_only
from worker.starting import Starting
from worker.status import Heartbeat

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
CANNOT_START = 2
EXIT_ENGINE_FAILED = 70


class WorkerProcess:
    """Everything one worker is made of; `run` returns when it was asked to stop.

    Raises:
        MemitError: the model cannot be edited, or the registry belongs to another one.
    """

    def __init__(self, settings: Settings, loaded: LoadedModel, starting: Starting) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{token_hex(3)}"
        self.stopping = threading.Event()
        self._edit_ready = threading.Event()
        self._starting = starting
        self._redis = Redis.from_url(settings.redis(), health_check_interval=30)
        # RQ waits for jobs in a blocking read, longer than redis-py's default time-out.
        self._rq_redis = Redis.from_url(settings.redis(), socket_timeout=None)
        self._registry = Registry(settings.registry_path)
        self._editor = Editor(
            loaded,
            _hparams(settings, self._registry, loaded),
            corpus=None if settings.corpus is None else read_corpus(settings.corpus),
            cache=self._registry.artefacts(loaded.digest),
            max_tokens=settings.max_fact_tokens,
            z_dtype=settings.z_dtype,
            scratch=settings.scratch_path,
            save_seconds=settings.scratch_save_seconds,
        )
        method = _method(settings, self._editor)
        base_version = begin_lineage(self._registry, self._editor, method)
        deltas = Deltas(self._registry.blobs)
        self._maker = VersionMaker(self._registry, self._editor, settings, method, deltas)
        self._engine = EngineThread(
            loaded,
            self._editor.structure,
            self._registry,
            settings,
            deltas=deltas,
            worker=self.id,
            base_version=base_version,
            on_fatal=_give_up,
            rebuild=self._maker.rebuild,
        )
        self._runner = EditRunner(
            self._registry, self._maker, self._redis, self.id, self.stopping, self._engine.ensure
        )
        self._heartbeat = Heartbeat(
            self.id,
            loaded,
            self._registry,
            self._redis,
            self._engine,
            lambda: self._runner.current,
            self._edit_ready,
        )
        self._recovery = Recovery(self._registry, self._redis)
        self._reporter = FullReporter(
            self._registry,
            self._editor,
            self._redis,
            deltas,
            settings.report_max_facts,
            editing=lambda: self._runner.current is not None,
            generating=lambda: self._engine.status().running > 0,
        )

    def run(self) -> None:
        """Generate and edit until SIGTERM or SIGINT."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._stop)
        self._engine.start()
        threads = [
            self._begin("heartbeat", self._heartbeat.keep_beating),
            self._begin("recovery", self._recovery.keep_sweeping),
        ]
        try:
            self._prepare()
            threads.append(self._begin("full-report", self._reporter.keep_reporting))
            self._work()
        finally:
            self.stopping.set()
            self._engine.stop()
            for thread in threads:
                thread.join(timeout=5)
            log.info("worker %s stopped", self.id)

    def _begin(self, name: str, body: Callable[[threading.Event], None]) -> threading.Thread:
        thread = threading.Thread(target=body, args=(self.stopping,), name=name, daemon=True)
        thread.start()
        return thread

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self.stopping.set()

    def _prepare(self) -> None:
        """What every edit needs, before the first one asks for it."""

        def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
            if self.stopping.is_set():
                raise Interrupted("the worker is stopping")
            self._starting(stage, done, total, loss=loss)

        try:
            self._maker.prepare(progress)
        except Interrupted:
            return
        except Exception:
            # A full disk or a damaged record must not take generation down as well.
            log.exception("not prepared to edit: each edit will try again")
            return
        finally:
            release_threads()
            self._starting.finish()
        self._edit_ready.set()
        log.info("ready to edit")

    def _work(self) -> None:
        """RQ's loop, entered again when Redis went away under it."""
        rounds = 0
        while not self.stopping.is_set():
            rounds += 1
            try:
                worker = ResidentWorker(
                    [Queue(EDIT_QUEUE, connection=self._rq_redis, serializer=JSONSerializer)],
                    name=f"{self.id}.{rounds}",
                    connection=self._rq_redis,
                    serializer=JSONSerializer,
                    job_class=allow_only({RUN_EDIT_JOB: self._runner.run}),
                    stopping=self.stopping,
                )
                worker.work(logging_level="WARNING")
            except RedisError as error:
                log.warning("RQ lost Redis: %s", error)
            self.stopping.wait(RETRY_SECONDS)


def _method(settings: Settings, editor: Editor) -> Method:
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


def _give_up(error: BaseException) -> None:
    """The engine cannot go on: end the process, whoever watches it starts it again."""
    log.critical("the engine failed for good: %s", error)
    logging.shutdown()
    os._exit(EXIT_ENGINE_FAILED)


def main() -> int:
    """Load the model and work; the process's exit status."""
    settings = Settings()
    logging.basicConfig(
        level=settings.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        starting = Starting(settings.redis(), settings.model)
        if settings.hparams is not None and not Path(settings.hparams).is_file():
            raise MemitError(f"--hparams {settings.hparams}: there is no such file")
        log.info("loading %s", settings.model)
        loaded = load_model(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            progress=starting,
        )
        log.info("loaded %s on %s as %s", loaded.name, loaded.device, loaded.dtype_name)
        process = WorkerProcess(settings, loaded, starting)
    except (MemitError, ServiceError, RegistryError, ValueError, OSError) as error:
        log.critical("cannot start: %s", error)
        return CANNOT_START
    except Exception as error:
        # Nobody foresaw it, so the log gets all of it; who reads the end of the log, the reason.
        log.exception("an unexpected error at the start")
        log.critical("cannot start: %s: %s", type(error).__name__, error)
        return CANNOT_START
    process.run()
    return 0

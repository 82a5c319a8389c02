"""The worker process: one resident model, and on it an engine, an editor, or both.

Whether they share a process or not, they talk through the registry and Redis. In one process they
share the model's memory too, and what was just solved.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from secrets import token_hex
from types import FrameType

from redis import Redis
from rq.exceptions import DuplicateJobError
from rq.queue import Queue
from rq.serializers import JSONSerializer

from contracts.settings import Settings
from contracts.transport import EDIT_QUEUE, rebuild_job
from memit_core.loading import LoadedModel
from registry.errors import RegistryError
from registry.folder_store import FolderStore
from registry.registry import Registry
from worker.changes import Changes
from worker.deltas import Deltas
from worker.editing import Editing
from worker.engine.thread import EngineThread
from worker.following import Following
from worker.garbage import leave_what_is_here
from worker.lineage import await_lineage
from worker.starting import Starting
from worker.status import Heartbeat
from worker.warm_up import WarmUp

log = logging.getLogger(__name__)

EXIT_ENGINE_FAILED = 70
TEMPORARY_SECONDS = 3_600.0
"""A temporary file of that age is left from a killed writer."""
LOOK_SECONDS = 0.2


class WorkerProcess:
    """Everything one worker is made of; `run` returns when it was asked to stop.

    Raises:
        MemitError: the model cannot be edited or served, or the registry belongs to another one.
        Interrupted: it was asked to stop before there was anything to serve.
    """

    def __init__(self, settings: Settings, loaded: LoadedModel, starting: Starting) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{token_hex(3)}"
        self.stopping = threading.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._stop)
        self._starting = starting
        self._redis = Redis.from_url(settings.redis(), health_check_interval=30)
        self._changes = Changes(settings.poll_seconds)
        self._settings = settings
        self._store = FolderStore(settings.registry_path)
        registry = self._registry = Registry(self._store)
        deltas = Deltas(registry.blobs)
        self._editing: Editing | None = None
        self._engine: EngineThread | None = None
        self._following: Following | None = None
        if settings.role != "engine":
            self._editing = Editing(settings, loaded, registry, deltas)
        if settings.role != "editor":
            editing = self._editing
            self._engine = EngineThread(
                loaded,
                loaded.structure,
                registry,
                settings,
                deltas=deltas,
                worker=self.id,
                base_version=await_lineage(registry, loaded, self.stopping, settings.poll_seconds),
                on_fatal=_give_up,
                rebuild=self._ask_for_rebuild if editing is None else editing.maker.rebuild,
            )
            self._following = Following(registry, self._redis, self._engine, self._changes)
        self._warm_up = WarmUp(
            self._redis, self.id, self._engine, settings.warm_seconds, self.stopping
        )
        self._heartbeat = Heartbeat(
            self.id,
            loaded,
            self._redis,
            self._changes,
            engine=self._engine,
            following=self._following,
            editing=self._editing,
        )

    def run(self) -> None:
        """Generate and edit until SIGTERM or SIGINT."""
        heart = threading.Thread(
            target=self._heartbeat.keep_beating, args=(self.stopping,), name="heart", daemon=True
        )
        leave_what_is_here()
        try:
            if self._engine is not None:
                self._engine.start()
            heart.start()
            if self._editing is None:
                self._starting.finish()
                self.stopping.wait()
            else:
                threading.Thread(target=self._tidy, name="tidy", daemon=True).start()
                self._editing.work(
                    self.id,
                    self.stopping,
                    self._changes,
                    self._warm_up,
                    self._generating,
                    self._starting,
                )
        finally:
            self.stopping.set()
            if self._engine is not None:
                self._engine.stop()
            heart.join(timeout=5)
            log.info("worker %s stopped", self.id)

    def _tidy(self) -> None:
        """Beside the start, which a large registry would delay, and a read-only one prevent."""
        try:
            removed = self._store.remove_temporary(TEMPORARY_SECONDS)
        except RegistryError as error:
            log.warning("temporary files of killed writers stay: %s", error)
            return
        if removed:
            log.info("%d temporary files of killed writers are deleted", len(removed))

    def _generating(self) -> bool:
        return self._engine is not None and self._engine.status().running > 0

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self.stopping.set()

    def _ask_for_rebuild(self, version: str) -> None:
        """Have an editor solve a version again, and wait for it as long as a request does.

        If an edit is being made it takes longer; whoever wants the version asks again later.
        """
        queue = Queue(EDIT_QUEUE, connection=self._redis, serializer=JSONSerializer)
        with contextlib.suppress(DuplicateJobError):
            queue.enqueue_call(**rebuild_job(version))
        deadline = time.monotonic() + self._settings.start_timeout
        blobs = self._registry.versions.get(version).blobs
        while not all(map(self._registry.blobs.has, blobs)) and time.monotonic() < deadline:
            if self.stopping.wait(LOOK_SECONDS):
                return


def _give_up(error: BaseException) -> None:
    """The engine cannot go on: end the process, whoever watches it starts it again."""
    log.critical("the engine failed for good: %s", error)
    logging.shutdown()
    os._exit(EXIT_ENGINE_FAILED)

"""The worker's heartbeat: what it holds and does, in Redis."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from contracts.transport import CHANGES_CHANNEL, worker_key
from contracts.workers import WorkerStatus
from memit_core.loading import LoadedModel
from registry.errors import RegistryError
from worker.changes import Changes
from worker.editing import Editing
from worker.engine.thread import EngineThread
from worker.following import Following

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
LOADING_BEAT_SECONDS = 0.1
"""While a version is loaded: an editor may wait to hear of it."""
TTL_SECONDS = 6


class Heartbeat:
    """Tells Redis of this worker every second, and at once when something changed.

    It listens to the change channel for all of this process, and has the engine follow.
    """

    def __init__(
        self,
        worker: str,
        loaded: LoadedModel,
        redis: Redis,
        changes: Changes,
        *,
        engine: EngineThread | None,
        following: Following | None,
        editing: Editing | None,
    ) -> None:
        self._worker = worker
        self._loaded = loaded
        self._redis = redis
        self._changes = changes
        self._engine = engine
        self._following = following
        self._editing = editing
        self._started_at = time.time()

    def keep_beating(self, stopping: threading.Event) -> None:
        """Beat until `stopping`, then take the status away; the body of a thread."""
        while not stopping.is_set():
            try:
                self._beat_while_connected(stopping)
            except (RedisError, RegistryError) as error:
                log.warning("the heartbeat failed: %s", error)
                stopping.wait(BEAT_SECONDS)
        try:
            self._redis.delete(worker_key(self._worker))
        except RedisError as error:
            log.warning("the status was left to expire: %s", error)

    def _beat_while_connected(self, stopping: threading.Event) -> None:
        with self._redis.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(CHANGES_CHANNEL)
            self._changes.note()  # what was said before is not said again
            while not stopping.is_set():
                pause = BEAT_SECONDS
                if self._following is not None:
                    self._following.step()
                    pause = LOADING_BEAT_SECONDS if self._following.loading else pause
                status = self._status().model_dump_json()
                self._redis.set(worker_key(self._worker), status, ex=TTL_SECONDS)
                if channel.get_message(ignore_subscribe_messages=True, timeout=pause) is not None:
                    self._changes.note()

    def _status(self) -> WorkerStatus:
        engine = None if self._engine is None else self._engine.status()
        follows, editing = self._following, self._editing
        return WorkerStatus(
            id=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            model=self._loaded.name,
            base=self._loaded.digest,
            dtype=self._loaded.dtype_name,
            device=str(self._loaded.device),
            ready=engine is not None and engine.alive,
            edit_ready=editing is not None and editing.ready.is_set(),
            versions=[] if engine is None else engine.versions,
            refused={} if follows is None else follows.refused,
            active=None if follows is None else follows.active,
            running=0 if engine is None else engine.running,
            waiting=0 if engine is None else engine.waiting,
            edit=None if editing is None else editing.current,
            advice=None if editing is None else editing.editor.advice,
            generated_tokens=0 if engine is None else engine.generated_tokens,
            starts_per_second=None if engine is None else engine.starts_per_second,
            rss_bytes=_rss_bytes(),
            said_at=time.time(),
        )


def _rss_bytes() -> int:
    """Resident memory of this process; 0 where /proc does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

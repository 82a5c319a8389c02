"""The worker's heartbeat: what it holds and does, in Redis, and its eye on the alias `active`."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from contracts.transport import CHANGES_CHANNEL, worker_key
from contracts.workers import WorkerStatus
from memit_core.loading import LoadedModel
from registry.commit import ACTIVE
from registry.errors import RegistryError
from registry.registry import Registry
from worker.engine.thread import EngineThread

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
TTL_SECONDS = 6


class Heartbeat:
    """Tells Redis of this worker every second, and at once when something changed.

    On the way it looks where `active` points and has the engine load that version ahead of the
    requests for it; the change channel only makes it look sooner.
    """

    def __init__(
        self,
        worker: str,
        loaded: LoadedModel,
        registry: Registry,
        redis: Redis,
        engine: EngineThread,
        current_edit: Callable[[], str | None],
        edit_ready: threading.Event,
    ) -> None:
        self._worker = worker
        self._loaded = loaded
        self._registry = registry
        self._redis = redis
        self._engine = engine
        self._current_edit = current_edit
        self._edit_ready = edit_ready
        self._started_at = time.time()
        self._active: str | None = None

    def keep_beating(self, stopping: threading.Event) -> None:
        """Beat until `stopping`, then take the status away; the body of a thread."""
        while not stopping.is_set():
            try:
                self._beat_while_connected(stopping)
            except (RedisError, OSError, RegistryError) as error:
                log.warning("the heartbeat failed: %s", error)
                stopping.wait(BEAT_SECONDS)
        try:
            self._redis.delete(worker_key(self._worker))
        except RedisError as error:
            log.warning("the status was left to expire: %s", error)

    def _beat_while_connected(self, stopping: threading.Event) -> None:
        with self._redis.pubsub() as changes:  # type: ignore[no-untyped-call]
            changes.subscribe(CHANGES_CHANNEL)
            while not stopping.is_set():
                self._follow_active()
                status = self._status().model_dump_json()
                self._redis.set(worker_key(self._worker), status, ex=TTL_SECONDS)
                changes.get_message(ignore_subscribe_messages=True, timeout=BEAT_SECONDS)

    def _follow_active(self) -> None:
        record = self._registry.aliases.get(ACTIVE)
        if record is not None and record.version != self._active:
            self._active = record.version
            self._engine.ensure(record.version)

    def _status(self) -> WorkerStatus:
        engine = self._engine.status()
        return WorkerStatus(
            id=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            model=self._loaded.name,
            base=self._loaded.digest,
            dtype=self._loaded.dtype_name,
            device=str(self._loaded.device),
            ready=engine.alive,
            edit_ready=self._edit_ready.is_set(),
            versions=engine.versions,
            active=self._active,
            running=engine.running,
            waiting=engine.waiting,
            edit=self._current_edit(),
            generated_tokens=engine.generated_tokens,
            rss_bytes=_rss_bytes(),
        )


def _rss_bytes() -> int:
    """Resident memory of this process; 0 where /proc does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

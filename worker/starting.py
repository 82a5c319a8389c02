"""What a worker does before it can edit: logged, and in Redis for those who wait for it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

from redis import Redis
from redis.exceptions import RedisError

from contracts.edits import Progress
from contracts.transport import starting_key
from contracts.workers import WorkerStarting
from worker.progress import seconds_left

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
TTL_SECONDS = 6
LOG_SECONDS = 5.0


class Starting:
    """A `memit_core.progress.ProgressCallback` from the first step of the start until `finish`.

    A thread of its own publishes it every second and at each new stage: the start neither waits for
    Redis nor seems dead in a long step.
    """

    def __init__(self, redis_url: str, model: str) -> None:
        self._url = redis_url
        self._model = model
        self._progress: Progress | None = None
        self._began, self._first = 0.0, 0
        self._logged = 0.0
        self._over = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._keep_publishing, name="starting", daemon=True)
        self._thread.start()

    def __call__(self, stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        now = time.monotonic()
        new = self._progress is None or stage != self._progress.stage
        if new:
            self._began, self._first = now, done
        left = seconds_left(now - self._began, done - self._first, total - done)
        self._progress = Progress(
            stage=stage, done=done, total=total, loss=loss, eta_seconds=left, at=time.time()
        )
        if new or now - self._logged > LOG_SECONDS:
            self._logged = now
            log.info("%s: %d of %d", stage, done, total)
        if new:
            self._news.set()

    def finish(self) -> None:
        """The start is over: take away what was published."""
        self._over.set()
        self._news.set()
        self._thread.join(timeout=5)

    def _keep_publishing(self) -> None:
        key = starting_key(socket.gethostname(), os.getpid())
        warned = False
        with Redis.from_url(self._url) as redis:
            while not self._over.is_set():
                self._news.wait(BEAT_SECONDS)
                self._news.clear()
                try:
                    if self._progress is not None:
                        redis.set(key, self._record(self._progress), ex=TTL_SECONDS)
                except RedisError as error:
                    if not warned:
                        log.warning(
                            "the start goes on, but its progress is not published: %s", error
                        )
                    warned = True
            try:
                redis.delete(key)
            except RedisError as error:
                log.warning("the progress of the start was left to expire: %s", error)

    def _record(self, progress: Progress) -> str:
        return WorkerStarting(
            host=socket.gethostname(), pid=os.getpid(), model=self._model, progress=progress
        ).model_dump_json()

"""Before `active` names a version, every engine holds it: no request waits for its loading."""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contracts.errors import ServiceError
from contracts.transport import CHANGES_CHANNEL, WANTED_VERSION_KEY, WORKER_KEYS
from contracts.workers import WorkerStatus
from worker.engine.thread import EngineThread
from worker.progress import Interrupted

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class WarmUp:
    """Asks all engines to load a version: the one of this process directly, others over Redis."""

    def __init__(
        self,
        redis: Redis,
        worker: str,
        engine: EngineThread | None,
        seconds: float,
        stopping: threading.Event,
    ) -> None:
        """Ask nothing yet.

        Args:
            engine: the engine of this process, if it has one.
            seconds: how long all of them may take together.
        """
        self._redis = redis
        self._worker = worker
        self._engine = engine
        self._seconds = seconds
        self._stopping = stopping

    def __call__(self, version: str) -> str | None:
        """Have the version loaded everywhere; why it must not become active, or None.

        Raises:
            Interrupted: this worker is stopping; whoever finishes the edit next activates it.
        """
        deadline = time.monotonic() + self._seconds
        here = None if self._engine is None else self._engine.ensure(version)
        try:
            self._redis.set(WANTED_VERSION_KEY, version, ex=math.ceil(self._seconds))
            self._redis.publish(CHANGES_CHANNEL, version)
        except RedisError as error:
            log.warning("other engines are not asked to load %s: %s", version, error)
        reason = self._loaded_here(here, deadline) or self._loaded_elsewhere(version, deadline)
        if reason is not None:
            log.error("%s is not activated: %s", version, reason)
        return reason

    def _loaded_here(self, loading: Future[None] | None, deadline: float) -> str | None:
        while loading is not None and time.monotonic() < deadline:
            try:
                loading.result(POLL_SECONDS)
            except TimeoutError:
                self._check_stopping()
                continue
            except ServiceError as error:
                return error.detail
            return None
        return None if loading is None else self._too_slow(self._worker)

    def _loaded_elsewhere(self, version: str, deadline: float) -> str | None:
        """Wait for the engines of other workers; those that are gone meanwhile do not count."""
        while True:
            try:
                others = [status for status in self._engines() if version not in status.versions]
            except RedisError as error:
                log.warning("whether other engines hold %s is not known: %s", version, error)
                return None
            for status in others:
                if version in status.refused:
                    return status.refused[version]
            if not others:
                return None
            if time.monotonic() > deadline:
                return self._too_slow(others[0].id)
            self._stopping.wait(POLL_SECONDS)
            self._check_stopping()

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise Interrupted("the worker is stopping")

    def _engines(self) -> list[WorkerStatus]:
        """The live engines but that of this process."""
        keys = list(self._redis.scan_iter(match=WORKER_KEYS, count=1_000))
        found = []
        for text in self._redis.mget(keys) if keys else []:
            try:
                status = WorkerStatus.model_validate_json(text or b"")
            except ValidationError:
                continue  # it expired meanwhile, or another release wrote it
            if status.ready and status.id != self._worker:
                found.append(status)
        return found

    def _too_slow(self, worker: str) -> str:
        return (
            f"{worker} has not loaded it within {self._seconds:g} s (MEMIT_WARM_SECONDS); "
            "PUT /aliases/active serves it all the same"
        )

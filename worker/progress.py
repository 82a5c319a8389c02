"""Progress of a running edit: published in Redis, and the point where the edit can be stopped."""

from __future__ import annotations

import logging
import threading
import time

from redis import Redis
from redis.exceptions import RedisError

from contracts import tracing
from contracts.edits import Progress
from contracts.transport import progress_stream
from memit_core.errors import Cancelled
from registry.registry import Registry
from worker.changes import PollTimer

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.2
STREAM_LENGTH = 500
STREAM_SECONDS = 3_600


def seconds_left(spent: float, done: int, left: int) -> float | None:
    """How long what is left takes at the pace so far."""
    return spent / done * left if done > 0 else None


class Interrupted(Cancelled):
    """The worker is stopping: the edit goes back to the queue."""


class EditProgress:
    """A `memit_core.progress.ProgressCallback` of one attempt at one edit.

    Raises from a call:
        Cancelled: a client asked for the edit to be cancelled.
        Interrupted: this worker is stopping.
    """

    def __init__(
        self,
        edit_id: str,
        registry: Registry,
        redis: Redis,
        stopping: threading.Event,
        poll: PollTimer,
    ) -> None:
        self.seconds: dict[str, float] = {}
        """Seconds spent in each stage so far."""
        self._edit_id = edit_id
        self._registry = registry
        self._redis = redis
        self._stopping = stopping
        self._poll = poll
        self._stage = ""
        self._span = tracing.NO_SPAN
        self._began = self._published = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        if self._stopping.is_set():
            raise Interrupted("the worker is stopping")
        if self._poll.due() and self._registry.edits.cancel_requested(self._edit_id):
            raise Cancelled("cancelled by request")
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._began = stage, now
            self._span = tracing.begin(f"memit.edit.{stage}")
        elif now - self._published < INTERVAL_SECONDS and done < total:
            return
        self._published = now
        left = seconds_left(now - self._began, done, total - done)
        self._publish(
            Progress(
                stage=stage, done=done, total=total, loss=loss, eta_seconds=left, at=time.time()
            )
        )

    def close(self) -> None:
        """Add the time of the stage that ends now."""
        if self._stage:
            spent = time.monotonic() - self._began
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent
            self._stage = ""
            self._span.end()

    def _publish(self, progress: Progress) -> None:
        stream = progress_stream(self._edit_id)
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.xadd(stream, {"progress": progress.model_dump_json()}, maxlen=STREAM_LENGTH)
                pipe.expire(stream, STREAM_SECONDS)
                pipe.execute()
        except RedisError as error:
            log.warning("progress of %s was not published: %s", self._edit_id, error)

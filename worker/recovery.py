"""Nothing accepted is lost: unfinished edits without a live job are put on the queue again."""

from __future__ import annotations

import logging
import threading

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now
from structlog.contextvars import bound_contextvars

from contracts.transport import EDIT_QUEUE, edit_job, worker_key
from registry.registry import Registry
from worker.editor_lock import editor_is_alive
from worker.origins import origin_of
from worker.rq_worker import JOB_TTL_SECONDS, ReadableJob

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0


class Recovery:
    """Sweeps the registry at start and every `SWEEP_SECONDS`; any number of workers may."""

    def __init__(self, registry: Registry, redis: Redis) -> None:
        """Sweep nothing yet."""
        self._registry = registry
        self._redis = redis
        self._queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)
        self._lost: set[str] = set()
        """Edits that an earlier sweep found neither waiting nor running."""

    def sweep(self) -> None:
        """Enqueue every unfinished edit that has no live job, in the order of acceptance.

        None while a live worker edits: it runs all of them before it lets go of the lock.

        Raises:
            RedisError: Redis does not answer.
        """
        if editor_is_alive(self._redis):
            return
        for edit_id in self._registry.edits.place_lost():
            log.error("%s had lost its place in the order and comes last now", edit_id)
        waiting = set(self._queue.get_job_ids())
        lost: set[str] = set()
        for edit_id in self._registry.edits.unfinished():
            state = "waiting" if edit_id in waiting else self._state(edit_id)
            # Between two lists of RQ a job is in neither for a moment: look twice.
            if state == "gone" or (state == "between" and edit_id in self._lost):
                self._enqueue(edit_id)
            elif state == "between":
                lost.add(edit_id)
        self._lost = lost

    def _state(self, edit_id: str) -> str:
        """ "running", "between" (it may be on its way), or "gone"."""
        try:
            job = ReadableJob.fetch(edit_id, connection=self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return "gone"
        status = job.get_status(refresh=False)
        if status == JobStatus.STARTED:
            # Our workers are named "<worker id>.<n>"; their status key expires when they die.
            worker = (job.worker_name or "").rpartition(".")[0]
            beat = job.last_heartbeat
            fresh = beat is not None and (now() - beat).total_seconds() < JOB_TTL_SECONDS
            return "running" if fresh and self._redis.exists(worker_key(worker)) else "gone"
        return "between" if status == JobStatus.QUEUED else "gone"

    def _enqueue(self, edit_id: str) -> None:
        origin = origin_of(edit_id, self._redis)
        try:
            ReadableJob.fetch(edit_id, connection=self._redis, serializer=JSONSerializer).delete()
        except NoSuchJobError:
            self._redis.delete(Job.key_for(edit_id))  # a record that cannot be read is in the way
        with bound_contextvars(edit_id=edit_id, **origin.ids):
            try:
                self._queue.enqueue_call(**edit_job(edit_id, origin))
                log.info("%s is queued again", edit_id)
            except DuplicateJobError:
                log.info("%s was queued by somebody else", edit_id)

    def keep_sweeping(self, stopping: threading.Event) -> None:
        """Sweep until `stopping`; the body of a thread."""
        while not stopping.is_set():
            try:
                self.sweep()
            except RedisError as error:
                log.warning("recovery could not sweep: %s", error)
            except Exception:
                # Nothing accepted is lost as long as this thread lives, whatever one sweep meets.
                log.exception("recovery could not sweep")
            stopping.wait(SWEEP_SECONDS)

"""RQ for a resident model: one process, the main thread, one job name, a steady heartbeat.

RQ's `SimpleWorker` runs jobs in its own process, which a resident model needs, but beats only
between jobs. Everything else of RQ stays as it is.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import DeserializationError, NoSuchJobError, StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty
from rq.worker import WorkerStatus

from worker.progress import Interrupted

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
JOB_TTL_SECONDS = 30
DEQUEUE_SECONDS = 5
"""An idle worker looks up from its queue this often."""


class ForbiddenJob(RuntimeError):
    """A job names a function that this worker does not run, or gives it something else than an id.

    The message repeats nothing of what the job says.
    """


@dataclass(frozen=True)
class Allowed:
    """A function that jobs may name, and the ids that it is given."""

    run: Callable[[str], None]
    ids: re.Pattern[str]

    def __call__(self, *args: Any, **named: Any) -> None:
        """Run it for one id.

        Raises:
            ForbiddenJob: it is given anything else.
        """
        if named or len(args) != 1 or not isinstance(args[0], str):
            raise ForbiddenJob("the job does not give one id")
        if not self.ids.fullmatch(args[0]):
            raise ForbiddenJob("what the job gives is no id of the kind that it needs")
        self.run(args[0])


class NoTimeLimit(BaseDeathPenalty):
    """A job's record may name a time after which RQ breaks off whatever runs then: not here."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


class ReadableJob(Job):
    """A job whose record cannot be read is none.

    RQ gives up over such a record, at each start again, and no other job is run any more.
    """

    def restore(self, raw_data: Any) -> None:
        try:
            super().restore(raw_data)
        except Exception as error:
            log.error("a job in the queue is not run: its record cannot be read")
            raise NoSuchJobError("its record cannot be read") from error


def allow_only(functions: Mapping[str, Allowed]) -> type[Job]:
    """A job class that runs these functions by name and imports nothing.

    RQ imports whatever a job's record names, callbacks too; who can write to Redis could run
    anything.
    """

    class AllowedJob(ReadableJob):
        @property
        def func(self) -> Allowed:
            name = self.func_name
            if not isinstance(name, str) or name not in functions:
                raise ForbiddenJob("the job's function is none of this worker's")
            return functions[name]

        @property
        def success_callback(self) -> None:
            return None

        @property
        def failure_callback(self) -> None:
            return None

        @property
        def stopped_callback(self) -> None:
            return None

    return AllowedJob


class ResidentWorker(SimpleWorker):
    """A `SimpleWorker` that beats while a job runs and asks it to stop on SIGTERM or SIGINT."""

    death_penalty_class = NoTimeLimit

    def __init__(self, *args: Any, stopping: threading.Event, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stopping = stopping

    def execute_job(self, job: Job, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(job, execution, done), daemon=True)
        heart.start()
        try:
            self.perform_job(job, queue, execution)
        finally:
            done.set()
            heart.join()
        self.set_state("idle")

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """RQ's writes the messages of all errors, which may quote facts.

        Of a job that is none of ours nothing is repeated.
        """
        error = exc_info[1]
        if isinstance(error, ForbiddenJob | DeserializationError):
            reason = str(error) or "its record cannot be read"
            log.error("a job in the queue is not run: %s", reason)
        elif not isinstance(error, Interrupted):
            log.error("the job %s ended in an error", job.id, exc_info=exc_info)

    def _beat(self, job: Job, execution: Execution, done: threading.Event) -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                self.maintain_heartbeats(job, execution)
            except RedisError as error:
                log.warning("heartbeat of %s failed: %s", job.id, error)

    @property
    def dequeue_timeout(self) -> int:
        return DEQUEUE_SECONDS

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's, and the end of an idle worker whose stop its signal handler could not bring about.

        RQ stops by an exception from the handler: it is not installed yet while the worker
        registers, and what was running may have caught the exception.
        """
        super().heartbeat(timeout, pipeline)
        between_jobs = pipeline is None and self.get_state() != WorkerStatus.BUSY
        if between_jobs and self._stopping.is_set():
            raise StopRequested

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        return JOB_TTL_SECONDS

    def request_stop(self, signum: Any, frame: Any) -> None:
        self._stopping.set()
        try:
            super().request_stop(signum, frame)  # type: ignore[no-untyped-call]
        except RedisError as error:
            # It would surface in whatever the main thread is doing, and fail a running edit.
            log.warning("RQ could not note the stop: %s", error)

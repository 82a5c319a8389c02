"""What a job's record in Redis may make this worker do: run an edit, and nothing else; its end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer

from contracts.ids import EDIT_ID
from contracts.transport import EDIT_QUEUE, RUN_EDIT_JOB, edit_job
from worker.progress import Interrupted
from worker.rq_worker import Allowed, ResidentWorker, allow_only

EDIT = "edit-" + "0" * 20


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_the_allowed_function_runs(redis_url: str, tmp_path: Path) -> None:
    """RQ imports whatever name a job carries; JSON does not stop that. Ours knows one name."""
    marker = tmp_path / "ran"
    ran: list[str] = []
    with Redis.from_url(redis_url, socket_timeout=None) as redis:
        queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)
        evil = queue.enqueue_call("subprocess.getoutput", args=[f"touch {marker}"])
        queue.enqueue_call(**edit_job(EDIT))
        worker = ResidentWorker(
            [queue],
            connection=redis,
            serializer=JSONSerializer,
            job_class=allow_only({RUN_EDIT_JOB: Allowed(ran.append, EDIT_ID)}),
            stopping=threading.Event(),
        )
        worker.work(burst=True, logging_level="ERROR")
        refused = Job.fetch(evil.id, connection=redis, serializer=JSONSerializer)
        assert refused.get_status() == JobStatus.FAILED
        result = refused.latest_result()
    assert ran == [EDIT]
    assert not marker.exists()
    assert result is not None
    assert "the job's function is none of this worker's" in (result.exc_string or "")


@pytest.mark.parametrize(("error", "lines"), [(Interrupted("stop"), 0), (ValueError("odd"), 1)])
def test_an_error_of_a_job_is_one_record_of_ours(
    redis_url: str, caplog: pytest.LogCaptureFixture, error: Exception, lines: int
) -> None:
    """RQ's own has the message of every error in its text, where nothing takes it out again."""

    def run(_edit_id: str) -> None:
        raise error

    with Redis.from_url(redis_url, socket_timeout=None) as redis:
        queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)
        queue.enqueue_call(**edit_job(EDIT))
        worker = ResidentWorker(
            [queue],
            connection=redis,
            serializer=JSONSerializer,
            job_class=allow_only({RUN_EDIT_JOB: Allowed(run, EDIT_ID)}),
            stopping=threading.Event(),
        )
        worker.work(burst=True, logging_level="WARNING")
    assert caplog.messages == [f"the job {EDIT} ended in an error"] * lines
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error] * lines


@pytest.mark.parametrize("after", [0.0, 0.5])
def test_a_stop_that_no_signal_handler_saw_ends_an_idle_worker(
    redis_url: str, after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for before RQ has its handlers, or while something swallowed their exception."""
    monkeypatch.setattr("worker.rq_worker.DEQUEUE_SECONDS", 1)
    stopping = threading.Event()
    with Redis.from_url(redis_url, socket_timeout=None) as redis:
        worker = ResidentWorker(
            [Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)],
            connection=redis,
            serializer=JSONSerializer,
            stopping=stopping,
        )
        timer = threading.Timer(after, stopping.set)
        timer.start()
        begun = time.monotonic()
        worker.work(logging_level="ERROR")
        timer.join()
    assert time.monotonic() - begun < 30

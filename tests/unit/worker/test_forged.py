"""What somebody who can write to Redis may leave there: it is refused and harms nothing else."""

from __future__ import annotations

import json
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from contracts.edits import AcceptedEdit, EditRequest
from contracts.ids import EDIT_ID, VERSION_ID, new_edit_id
from contracts.transport import (
    EDIT_QUEUE,
    GENERATE_STREAM,
    REBUILD_JOB,
    RUN_EDIT_JOB,
    edit_job,
    output_stream,
)
from contracts.turns import PUT
from tests.unit.worker.engine.service_side import ServiceSide
from tests.unit.worker.engine.stage import task
from tests.unit.worker.workshop import Workshop, fact
from worker.engine.streams import MOST_CHARS, GenerationStreams
from worker.recovery import Recovery
from worker.rq_worker import Allowed, ResidentWorker, allow_only

EDIT, VERSION = "edit-" + "0" * 20, "v0-0123456789ab"
SECRET = "told-to-nobody"


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def record(name: Any = RUN_EDIT_JOB, *args: Any, **named: Any) -> bytes:
    """What RQ keeps of a call."""
    return json.dumps([name, None, args, named]).encode()


JOBS: dict[str, dict[str, Any]] = {
    "another function": {"data": record("os.system", SECRET)},
    "a function that is no text": {"data": record([SECRET], EDIT)},
    "no function": {"data": record(None, EDIT)},
    "no JSON": {"data": SECRET.encode()},
    "JSON of another shape": {"data": json.dumps({SECRET: 1}).encode()},
    "not compressed as RQ does": {"data": b"\x78\x9c" + SECRET.encode()},
    "no data": {},
    "no id": {"data": record(RUN_EDIT_JOB)},
    "two ids": {"data": record(RUN_EDIT_JOB, EDIT, EDIT)},
    "a named id": {"data": record(RUN_EDIT_JOB, edit_id=EDIT)},
    "an id that is no text": {"data": record(RUN_EDIT_JOB, {SECRET: EDIT})},
    "a path": {"data": record(RUN_EDIT_JOB, f"../../{SECRET}")},
    "a path behind an id": {"data": record(RUN_EDIT_JOB, f"{EDIT}/../{SECRET}")},
    "a line behind an id": {"data": record(RUN_EDIT_JOB, f"{EDIT}\n")},
    "a version's path": {"data": record(REBUILD_JOB, f"v0-../{SECRET}")},
    "a megabyte": {"data": record(RUN_EDIT_JOB, SECRET * 100_000)},
    "a callback": {"data": record("os.system", SECRET), "failure_callback_name": "os.getcwd"},
    "a time limit": {"data": record(RUN_EDIT_JOB, SECRET), "timeout": 1},
    "a time limit of no number": {"data": record(RUN_EDIT_JOB, SECRET), "timeout": SECRET},
    "a date that is none": {"data": record(RUN_EDIT_JOB, SECRET), "created_at": SECRET},
    "meta that is none": {"data": record(RUN_EDIT_JOB, SECRET), "meta": SECRET},
    "no text": {"data": record(RUN_EDIT_JOB, SECRET), "origin": b"\xff\xfe"},
}


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    with Redis.from_url(redis_url, socket_timeout=None) as redis:
        yield Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)


def work(queue: Queue, run: Callable[[str], None] | None = None) -> list[str]:
    """Take jobs until none is left, as a worker does, which begins again when RQ gives up."""
    ran: list[str] = []
    jobs = {
        RUN_EDIT_JOB: Allowed(run or ran.append, EDIT_ID),
        REBUILD_JOB: Allowed(ran.append, VERSION_ID),
    }
    for _ in range(5):
        ResidentWorker(
            [queue],
            connection=queue.connection,
            serializer=JSONSerializer,
            job_class=allow_only(jobs),
            stopping=threading.Event(),
        ).work(burst=True, logging_level="WARNING")
        if not queue.get_job_ids():
            return ran
    raise AssertionError("the queue does not become empty")


def forge(queue: Queue, fields: dict[str, Any]) -> None:
    """Put a job that no code of ours wrote."""
    job = Job.create("x", id="forged", connection=queue.connection, serializer=JSONSerializer)
    job.save()
    if "data" not in fields:
        queue.connection.hdel(job.key, "data")
    if fields:
        queue.connection.hset(job.key, mapping=fields)
    queue.connection.rpush(queue.key, job.id)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", JOBS)
def test_a_forged_job_is_refused_and_the_next_one_run(
    queue: Queue, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    forge(queue, JOBS[name])
    queue.enqueue_call(**edit_job(EDIT))
    with caplog.at_level(logging.INFO):
        assert work(queue) == [EDIT]
    assert SECRET not in caplog.text
    assert [one for one in caplog.records if one.levelno >= logging.ERROR], "it is logged"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_unpickled(queue: Queue, tmp_path: Path) -> None:
    file = tmp_path / "made"
    forge(queue, {"data": pickle.dumps(("x", None, (Evil(file),), {})), "meta": b"{}"})
    queue.enqueue_call(**edit_job(EDIT))
    assert work(queue) == [EDIT]
    assert not file.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_time_limit_breaks_off_no_edit(queue: Queue) -> None:
    """It has the id of an edit that waits, and RQ would interrupt the edit after a second."""
    ended: list[str] = []

    def run(edit_id: str) -> None:
        time.sleep(1.5)
        ended.append(edit_id)

    forge(queue, {"data": record(RUN_EDIT_JOB, EDIT), "timeout": 1})
    assert work(queue, run) == []
    assert ended == [EDIT]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_job_without_a_record_is_skipped(queue: Queue) -> None:
    queue.connection.rpush(queue.key, SECRET)
    queue.enqueue_call(**edit_job(EDIT))
    assert work(queue) == [EDIT]


@pytest.mark.parametrize("fields", [{"created_at": SECRET}, {"timeout": SECRET}])
def test_a_record_that_cannot_be_read_keeps_no_edit_from_its_turn(
    workshop: Workshop, fields: dict[str, str]
) -> None:
    """It has the edit's id, and is not on the queue: the edit is queued again in its place."""
    edit = AcceptedEdit(
        id=new_edit_id(), request=EditRequest(facts=[fact("Anna Keller")]), accepted_at=1.0
    )
    workshop.registry.edits.accept(edit)
    workshop.redis.hset(Job.key_for(edit.id), mapping={"data": SECRET, **fields})
    Recovery(workshop.registry, workshop.redis).sweep()
    queue = Queue(EDIT_QUEUE, connection=workshop.redis, serializer=JSONSerializer)
    assert queue.get_job_ids() == [edit.id]
    job = queue.fetch_job(edit.id)
    assert job is not None
    assert job.args == [edit.id]


def wrong_task(**fields: Any) -> str:
    sound = json.loads(task(SECRET, VERSION).model_dump_json())
    return json.dumps({**sound, **fields})


TASKS: dict[str, Any] = {
    "no JSON": SECRET,
    "no text": b"\xff\xfe" + SECRET.encode(),
    "JSON of another shape": json.dumps([SECRET]),
    "missing fields": json.dumps({"id": "a", "prompt": SECRET}),
    "a version that is none": wrong_task(version=f"v0-{SECRET}"),
    "a version's path": wrong_task(version="../../etc/passwd"),
    "an id that names another key": wrong_task(id=f"a:{SECRET}"),
    "an id of a megabyte": wrong_task(id=SECRET * 100_000),
    "an id that is no text": wrong_task(id=[SECRET]),
    "sampling out of bounds": wrong_task(sampling={"max_tokens": 10**9}),
    "two beginnings": wrong_task(token_ids=[1]),
    "more than anybody may ask": wrong_task(prompt=SECRET * MOST_CHARS),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_forged_task_is_thrown_away_and_the_next_one_taken(
    redis_url: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service, streams = ServiceSide(redis_url), GenerationStreams(redis_url, "engine")
    streams.take(1, None)  # makes the group
    service.redis.xadd(output_stream("forged"), {"open": "1"})
    service.redis.eval(PUT, 0, "key-of-nobody", "forged", TASKS[name], 100)
    sound = task("next", VERSION)
    service.send(sound)
    with caplog.at_level(logging.INFO):
        assert streams.take(9, None) == [sound]
    assert "thrown away" in caplog.text
    assert SECRET not in caplog.text
    assert service.redis.xlen(GENERATE_STREAM) == 0
    streams.close()


@pytest.mark.parametrize("fields", [{"task": SECRET}, {"principal": SECRET}, {b"\xff": b"\xff"}])
def test_an_entry_that_stands_for_no_task_does_no_harm(
    redis_url: str, fields: dict[Any, Any]
) -> None:
    service, streams = ServiceSide(redis_url), GenerationStreams(redis_url, "engine")
    streams.take(1, None)
    service.redis.xadd(GENERATE_STREAM, fields)
    assert streams.take(9, None) == []
    sound = task("next", VERSION)
    service.send(sound)
    assert streams.take(9, None) == [sound]
    assert service.redis.xlen(GENERATE_STREAM) == 0
    streams.close()


def test_a_task_with_the_id_of_another_one_does_not_speak_in_its_place(redis_url: str) -> None:
    """Somebody else's answer is being written: under the same id, and only saying that it is it."""
    service, streams = ServiceSide(redis_url), GenerationStreams(redis_url, "engine")
    streams.take(1, None)
    sound, other = task("mine", VERSION), task("other", VERSION)
    forged = sound.model_copy(update={"prompt": "forged"}).model_dump_json()
    service.send(sound)
    service.redis.xadd(output_stream("forged"), {"open": "1"})
    service.redis.eval(PUT, 0, "key-of-nobody", "forged", forged, 100)
    assert streams.take(9, None) == [sound]
    heard = service.redis.xlen(output_stream(sound.id))
    service.redis.eval(PUT, 0, "key-of-nobody", sound.id, forged, 100)
    service.send(other)
    assert streams.take(9, None) == [other]
    assert service.redis.xlen(output_stream(sound.id)) == heard
    streams.close()

"""`memit top`: what it shows of the workers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis as blocking
from rich.console import Console

from cli.top import shown
from contracts.edits import Progress
from contracts.transport import starting_key, worker_key
from contracts.workers import Workers, WorkerStarting, WorkerStatus
from tests.unit.cli.conftest import Memit
from tests.unit.service.worker_peer import BASE

VERSIONS = ["v0-9f3c2a71b0de", "v1-0b1c2d3e4f50"]


@pytest.fixture
def redis(redis_url: str) -> Iterator[blocking.Redis]:
    with blocking.Redis.from_url(redis_url) as redis:
        yield redis


def status(tokens: int = 0, at: float = 100.0, edit: str | None = None) -> WorkerStatus:
    return WorkerStatus(
        id="worker-1",
        host="here",
        pid=1,
        started_at=1.0,
        model="tiny [1]",
        base=BASE,
        dtype="float32",
        device="cpu",
        ready=True,
        edit_ready=edit is None,
        versions=VERSIONS,
        active=VERSIONS[1],
        running=3,
        waiting=2,
        edit=edit,
        generated_tokens=tokens,
        rss_bytes=1_500_000_000,
        said_at=at,
    )


def starting() -> WorkerStarting:
    progress = Progress(stage="covariance", done=45, total=100, eta_seconds=40, at=1.0)
    return WorkerStarting(host="there", pid=7, model="tiny", progress=progress)


def those(*workers: WorkerStatus) -> Workers:
    return Workers(workers=list(workers), starting=[], waiting=4, edits_waiting=1)


def text(now: Workers, before: Workers) -> str:
    console = Console(width=200)
    with console.capture() as printed:
        console.print(shown(now, before))
    return printed.get()


def test_what_the_service_says_of_its_workers(memit: Memit, redis: blocking.Redis) -> None:
    assert memit("top", "--once", "--every", "0.1").stdout.endswith(
        "no worker; waiting for a worker: 0 generations, 0 edits\n"
    )
    redis.set(worker_key("worker-1"), status().model_dump_json())
    redis.set(starting_key("there", 7), starting().model_dump_json())
    printed = memit("top", "--every", "0.1")
    assert printed.exit_code == 0, printed.output
    assert "here cpu, tiny [1]" in printed.stdout
    assert "ready to generate and edit" in printed.stdout
    assert "1.5 GB" in printed.stdout
    assert ", ".join(VERSIONS) in printed.stdout
    assert "starts: covariance 45%, 0:00:40 left" in printed.stdout
    found = Workers.model_validate(json.loads(memit("top", "--json").stdout))
    assert (found.workers, found.starting) == ([status()], [starting()])


def test_tokens_a_second_are_those_between_two_words_of_a_worker() -> None:
    assert " 25 " in text(those(status(200, 104.0)), those(status(100, 100.0)))


@pytest.mark.parametrize(
    "before",
    [those(), those(status(300, 100.0)), those(status(100, 104.0))],
    ids=["it is new", "it began anew", "it said nothing meanwhile"],
)
def test_without_two_there_is_no_rate(before: Workers) -> None:
    heading, _, line, *_ = text(those(status(200, 104.0)), before).splitlines()
    column = [word.strip() for word in heading.split("┃")].index("tokens a second")
    assert line.split("│")[column].strip() == ""


def test_what_a_worker_does() -> None:
    edits = text(those(status(edit="edit-0123")), those())
    assert "edits edit-0123" in edits
    assert "waiting for a worker: 4 generations, 1 edits" in edits
    idle = status().model_copy(update={"ready": False, "edit_ready": False})
    assert "not ready" in text(those(idle), those())

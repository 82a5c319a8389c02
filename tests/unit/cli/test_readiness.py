"""What `memit serve` says of the service: what it waits for, and when it answers and edits."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as blocking
from rich.console import Console

from cli import readiness as module
from cli.child import Child
from cli.embedded import Embedded
from cli.errors import CommandFailed
from cli.readiness import Phase, Readiness
from cli.supervisor import Supervisor
from contracts.edits import Progress
from contracts.transport import starting_key, worker_key
from contracts.workers import WorkerStarting, WorkerStatus
from registry.registry import Registry
from tests.unit.cli.waiting import wait_until
from tests.unit.service.worker_peer import BASE


@pytest.fixture
def told() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def house(url: str, redis_url: str, tmp_path: Path, told: io.StringIO) -> Embedded:
    log = tmp_path / "worker.log"
    log.write_text("2026-11-25 09:00:00,000 INFO worker.main: loading [tiny]\n")
    return Embedded(Supervisor([], told.write), url, redis_url, Child("worker", [], log))


@pytest.fixture
def redis(redis_url: str) -> Iterator[blocking.Redis]:
    with blocking.Redis.from_url(redis_url) as redis:
        yield redis


def tell(redis: blocking.Redis, stage: str, done: int, left: float | None = None) -> None:
    """What a worker on its way says."""
    progress = Progress(stage=stage, done=done, total=100, eta_seconds=left, at=time.time())
    starting = WorkerStarting(host="here", pid=1, model="tiny", progress=progress)
    redis.set(starting_key("here", 1), starting.model_dump_json())


def test_each_phase_is_told_once(
    house: Embedded, redis: blocking.Redis, registry: Registry, told: io.StringIO
) -> None:
    status = WorkerStatus(
        id="w",
        host="here",
        pid=1,
        started_at=time.time(),
        model="tiny",
        base=BASE,
        dtype="float32",
        device="cpu",
        ready=True,
        edit_ready=False,
        versions=[registry.versions.resolve("v0")],
        active=None,
        running=0,
        waiting=0,
    )
    with Readiness(house, Console(file=told, width=200)) as readiness:
        time.sleep(1.2)
        assert (readiness.phase, told.getvalue()) == (Phase.STARTING, "")
        redis.set(worker_key("w"), status.model_dump_json())
        wait_until(lambda: readiness.phase is Phase.ANSWERS)
        ready = status.model_copy(update={"edit_ready": True, "advice": "calibrate [tiny]"})
        redis.set(worker_key("w"), ready.model_dump_json())
        wait_until(lambda: readiness.phase is Phase.EDITS)
        redis.delete(worker_key("w"))
        wait_until(lambda: readiness.phase is Phase.STARTING)
    version = status.versions[0]
    assert told.getvalue().splitlines() == [
        f"answers at {house.url}; API docs at {house.url}/docs",
        "ready to edit",
        "note: calibrate [tiny]",
        f"not ready any more: worker none holds {version} (0 alive, 0 ready)",
    ]


def test_what_the_worker_does_is_shown_while_it_starts(
    house: Embedded, redis: blocking.Redis, told: io.StringIO
) -> None:
    with Readiness(house, Console(file=told, width=200)) as readiness:
        wait_until(lambda: readiness.doing == "loading [tiny]")
        tell(redis, "load model", 0)
        wait_until(lambda: readiness.doing == "worker: load model")
        with house.worker.log.open("a") as log:
            log.write("Fetching 3 files:  33%|███       | 1/3 [00:01<00:02]")
        bar = "Fetching 3 files:  33% 1/3 [00:01<00:02]"
        wait_until(lambda: readiness.doing == f"worker: load model ({bar})")
        house.worker.log.write_text("2026-11-25 09:00:00,000 INFO worker.main: loaded\n")
        for done in (1, 45):
            tell(redis, "covariance", done, 40.4)
            wait_until(lambda done=done: readiness.doing.startswith(f"worker: covariance {done}%"))
        assert readiness.doing == "worker: covariance 45%, 0:00:40 left"
    lines = [line.rpartition(" (")[0] for line in told.getvalue().splitlines()]
    assert lines == ["worker: load model", "worker: covariance 1%, 0:00:40 left"], (
        "where there is no terminal, a line a stage"
    )


def test_a_long_stage_is_told_now_and_then(
    house: Embedded,
    redis: blocking.Redis,
    told: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SAY_SECONDS", 0.1)
    tell(redis, "covariance", 45)
    with Readiness(house, Console(file=told, width=200)):
        wait_until(lambda: told.getvalue().count("worker: covariance 45% (") == 3)


def test_a_terminal_shows_it_in_one_line(house: Embedded, redis: blocking.Redis) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=60, force_terminal=True)
    tell(redis, "a stage with [square] brackets and " + 60 * "x", 45, 40)
    with Readiness(house, console):
        wait_until(lambda: " s)" in shown.getvalue())
        time.sleep(0.2)
    assert "with [square] brackets" in shown.getvalue()
    shown_lines = shown.getvalue().replace("\r", "\n").splitlines()
    assert not any(line.strip() == "s)" for line in shown_lines), "it wraps"


def test_it_waits_as_long_as_the_worker_moves_and_then_says_what_was_the_last(
    house: Embedded,
    redis: blocking.Redis,
    told: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 3.0)
    over = threading.Event()
    running = threading.Thread(target=over.wait)
    running.start()

    def move() -> None:
        for done in range(10):
            tell(redis, "covariance", done)
            time.sleep(0.5)

    mover = threading.Thread(target=move)
    began = time.monotonic()
    with Readiness(house, Console(file=told, width=200)) as readiness:
        mover.start()
        with pytest.raises(CommandFailed, match="nothing new has happened for 3 s") as failed:
            readiness.wait(running)
    assert time.monotonic() - began > 7
    assert str(failed.value).endswith("the last was: worker: covariance 9%")
    mover.join()
    over.set()
    running.join()


def test_a_worker_that_dies_and_begins_again_is_not_waited_for_for_ever(
    house: Embedded,
    redis: blocking.Redis,
    told: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 3.0)
    over = threading.Event()

    def live_and_die() -> None:
        while not over.is_set():
            house.worker.log_begin = house.worker.log.stat().st_size
            for done in (0, 50):
                with house.worker.log.open("a") as log:
                    log.write("loading\n")
                tell(redis, "load model", done)
                over.wait(0.5)

    worker = threading.Thread(target=live_and_die)
    worker.start()
    with Readiness(house, Console(file=told, width=200)) as readiness:
        try:
            with pytest.raises(CommandFailed, match="nothing new has happened"):
                readiness.wait(worker)
        finally:
            over.set()
            worker.join()


def test_it_does_not_wait_for_a_service_that_has_ended(house: Embedded, told: io.StringIO) -> None:
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    with (
        Readiness(house, Console(file=told)) as readiness,
        pytest.raises(CommandFailed, match="ended before it was ready"),
    ):
        readiness.wait(ended)

"""Those who wait for a worker can see what its start is at; the start waits for nobody."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from cli.embedded_redis import free_port
from contracts.transport import STARTING_KEYS, WORKER_KEYS, starting_key
from contracts.workers import WorkerStarting, WorkerStatus
from tests.tiny_models import save_tiny
from worker import starting as module
from worker.starting import Starting


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)


def wait_until(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def test_redis_knows_the_stage_its_share_and_the_time_left(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:

        def told() -> WorkerStarting | None:
            [key] = redis.keys(STARTING_KEYS) or [None]
            return WorkerStarting.model_validate_json(redis.get(key)) if key else None

        starting = Starting(redis_url, "tiny")
        starting("load model", 1, 2)
        wait_until(lambda: told() is not None)
        # A covariance that was interrupted goes on where it was: that share took no time.
        starting("covariance", 500, 1_000)
        time.sleep(0.2)
        starting("covariance", 600, 1_000)
        wait_until(lambda: (one := told()) is not None and one.progress.done == 600)
        one = told()
        assert one is not None
        assert (one.host, one.pid, one.model) == (socket.gethostname(), os.getpid(), "tiny")
        assert one.progress.stage == "covariance"
        assert one.progress.eta_seconds is not None
        assert 0.8 <= one.progress.eta_seconds < 20
        key = starting_key(one.host, one.pid)
        assert 0 < redis.ttl(key) <= module.TTL_SECONDS, "a dead worker is not starting for long"
        starting.finish()
        assert told() is None


def test_without_redis_the_start_goes_on_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    starting = Starting(f"redis://127.0.0.1:{free_port()}", "tiny")
    starting("load model", 0, 2)
    wait_until(lambda: "its progress is not published" in caplog.text)
    starting("load model", 1, 2)
    starting("templates", 0, 1)
    time.sleep(0.2)
    starting.finish()
    said = [record.getMessage() for record in caplog.records]
    assert sum("its progress is not published" in line for line in said) == 1
    assert "load model: 0 of 2" in said
    assert "templates: 0 of 1" in said, "each stage is logged"


@pytest.mark.slow
def test_a_worker_tells_until_it_can_edit(redis_url: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Anna wrote a letter to the keeper of the bridge.\n\n" * 60)
    settings = {
        "MEMIT_REDIS_URL": redis_url,
        "MEMIT_HOME": str(tmp_path),
        "MEMIT_MODEL": str(save_tiny("llama", tmp_path / "model")),
        "MEMIT_CORPUS": str(corpus),
    }
    with (
        Redis.from_url(redis_url) as redis,
        subprocess.Popen(
            [sys.executable, "-m", "worker"], env={**os.environ, **settings}
        ) as worker,
    ):
        key = starting_key(socket.gethostname(), worker.pid)

        def ready() -> bool:
            statuses = redis.mget(redis.keys(WORKER_KEYS) or ["none"])
            return any(WorkerStatus.model_validate_json(one).edit_ready for one in statuses if one)

        try:
            wait_until(lambda: redis.exists(key) == 1, 120)
            assert not redis.keys(WORKER_KEYS), "it is told before there is a heartbeat"
            wait_until(ready, 120)
            assert redis.exists(key) == 0
        finally:
            worker.terminate()
        assert worker.wait(60) == 0

"""What `memit serve` says of the service: what it waits for, and when it answers and edits."""

from __future__ import annotations

import io
import time
from pathlib import Path

import redis as blocking
from rich.console import Console

from cli.child import Child
from cli.embedded import Embedded
from cli.readiness import Phase, Readiness
from cli.supervisor import Supervisor
from contracts.transport import worker_key
from contracts.workers import WorkerStatus
from registry.registry import Registry
from tests.unit.cli.waiting import wait_until
from tests.unit.service.worker_peer import BASE


def test_each_phase_is_told_once(
    url: str, redis_url: str, registry: Registry, tmp_path: Path
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
    log = tmp_path / "worker.log"
    log.write_text("loading [tiny]\n")
    told = io.StringIO()
    house = Embedded(Supervisor([], told.write), url, redis_url, Child("worker", [], log))
    with (
        blocking.Redis.from_url(redis_url) as redis,
        Readiness(house, Console(file=told, width=200)) as readiness,
    ):
        time.sleep(1.2)
        assert (readiness.phase, told.getvalue()) == (Phase.STARTING, "")
        redis.set(worker_key("w"), status.model_dump_json())
        wait_until(lambda: readiness.phase is Phase.ANSWERS)
        ready = status.model_copy(update={"edit_ready": True})
        redis.set(worker_key("w"), ready.model_dump_json())
        wait_until(lambda: readiness.phase is Phase.EDITS)
        redis.delete(worker_key("w"))
        wait_until(lambda: readiness.phase is Phase.STARTING)
    version = status.versions[0]
    assert told.getvalue().splitlines() == [
        f"answers at {url}; API docs at {url}/docs",
        "ready to edit",
        f"not ready any more: worker none holds {version} (0 alive, 0 ready)",
    ]

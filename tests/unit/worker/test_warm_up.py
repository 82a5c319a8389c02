"""A version becomes active when every live engine holds it, and not when one cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from cli.embedded_redis import free_port
from contracts.ids import VersionId
from contracts.settings import Settings
from contracts.transport import WANTED_VERSION_KEY, worker_key
from contracts.workers import WorkerStatus
from tests.unit.worker.engine.stage import Stage, make_stage
from worker.changes import Changes
from worker.deltas import Deltas
from worker.engine.thread import EngineThread
from worker.following import Following
from worker.progress import Interrupted
from worker.status import Heartbeat
from worker.warm_up import WarmUp

OTHER = "other-worker"


@pytest.fixture
def stage(registry_path: Path) -> Stage:
    return make_stage("llama", registry_path)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as redis:
        yield redis


def warm_up(redis: Redis, seconds: float = 20, engine: EngineThread | None = None) -> WarmUp:
    return WarmUp(redis, "editor", engine, seconds, threading.Event())


def beat(redis: Redis, *versions: str, ready: bool = True, **fields: dict[str, str]) -> None:
    """Another worker's heartbeat."""
    status = WorkerStatus(
        id=OTHER,
        host="h",
        pid=1,
        started_at=0,
        model="m",
        base="b",
        dtype="float32",
        device="cpu",
        ready=ready,
        edit_ready=False,
        versions=list(versions),
        active=None,
        running=0,
        waiting=0,
        **fields,
    )
    redis.set(worker_key(OTHER), status.model_dump_json())


def engine_of(stage: Stage, redis_url: str, worker: str) -> EngineThread:
    engine = EngineThread(
        stage.loaded,
        stage.structure,
        stage.registry,
        Settings(redis_url=redis_url),
        deltas=Deltas(stage.registry.blobs),
        worker=worker,
        base_version=stage.base_version,
        on_fatal=lambda error: pytest.fail(str(error)),
    )
    engine.start()
    return engine


@pytest.fixture
def engine_elsewhere(stage: Stage, redis: Redis, redis_url: str) -> Iterator[EngineThread]:
    """A worker that only generates, heartbeat and all."""
    stopping, changes = threading.Event(), Changes(poll_seconds=1_000)
    engine = engine_of(stage, redis_url, OTHER)
    following = Following(stage.registry, redis, engine, changes)
    heartbeat = Heartbeat(
        OTHER, stage.loaded, redis, changes, engine=engine, following=following, editing=None
    )
    heart = threading.Thread(target=heartbeat.keep_beating, args=(stopping,))
    heart.start()
    deadline = time.monotonic() + 20
    while not redis.exists(worker_key(OTHER)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield engine
    stopping.set()
    heart.join(20)
    engine.stop(grace=0)


def test_an_engine_elsewhere_loads_what_is_wanted(
    stage: Stage, redis: Redis, engine_elsewhere: EngineThread
) -> None:
    version: VersionId = stage.publish(1)
    assert version not in engine_elsewhere.status().versions
    assert warm_up(redis)(version) is None
    assert version in engine_elsewhere.status().versions


def test_what_an_engine_elsewhere_cannot_load_says_why(
    stage: Stage, redis: Redis, engine_elsewhere: EngineThread
) -> None:
    version: VersionId = stage.publish(1)
    (weight, *_) = stage.registry.versions.get(version).weights
    (stage.root / "blobs" / "sha256" / weight.blob[:2] / weight.blob).unlink()
    reason = warm_up(redis)(version)
    assert reason is not None
    assert f"blob {weight.blob} is missing" in reason
    assert engine_elsewhere.status().alive


def test_who_is_not_ready_or_gone_is_not_waited_for(stage: Stage, redis: Redis) -> None:
    version = stage.publish(1)
    assert warm_up(redis)(version) is None, "nobody is there"
    beat(redis, ready=False)
    assert warm_up(redis)(version) is None
    beat(redis)
    threading.Timer(0.2, redis.delete, [worker_key(OTHER)]).start()
    assert warm_up(redis)(version) is None
    redis.set(worker_key(OTHER), "a later release's")
    assert warm_up(redis)(version) is None


def test_who_holds_it_is_not_waited_for_and_who_is_slow_for_so_long(
    stage: Stage, redis: Redis
) -> None:
    version = stage.publish(1)
    beat(redis, version)
    assert warm_up(redis)(version) is None
    beat(redis)
    reason = warm_up(redis, seconds=0.2)(version)
    assert reason is not None
    assert reason.startswith(f"{OTHER} has not loaded it within 0.2 s (MEMIT_WARM_SECONDS)")
    assert "PUT /aliases/active" in reason


def test_a_stop_meanwhile_is_no_reason_against_the_version(stage: Stage, redis: Redis) -> None:
    version, stopping = stage.publish(1), threading.Event()
    beat(redis)
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(Interrupted):
        WarmUp(redis, "editor", None, 20, stopping)(version)


def test_without_redis_this_processs_engine_counts_alone(stage: Stage, redis_url: str) -> None:
    engine = engine_of(stage, redis_url, "editor")
    try:
        version = stage.publish(1)
        with Redis.from_url(f"redis://127.0.0.1:{free_port()}") as nobody:
            assert warm_up(nobody, engine=engine)(version) is None
            assert version in engine.status().versions
            reason = warm_up(nobody, engine=engine)("v9-000000000000")
        assert reason is not None
        assert "cannot be loaded" in reason
    finally:
        engine.stop(grace=0)


def test_a_forged_wish_is_ignored(redis: Redis, engine_elsewhere: EngineThread) -> None:
    redis.set(WANTED_VERSION_KEY, "../../etc/passwd")
    time.sleep(0.5)
    status = WorkerStatus.model_validate_json(redis.get(worker_key(OTHER)) or b"")
    assert status.refused == {}
    assert engine_elsewhere.status().alive

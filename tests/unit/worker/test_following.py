"""An engine loads every version that `active` names, before anybody asks, and keeps them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from contracts.settings import Settings
from contracts.versions import ACTIVE
from tests.unit.worker.engine.stage import Stage, make_stage
from worker.changes import Changes
from worker.deltas import Deltas
from worker.engine.thread import EngineThread
from worker.following import Following

SLOTS = 2


@pytest.fixture
def stage(registry_path: Path) -> Stage:
    return make_stage("llama", registry_path)


@pytest.fixture
def engine(stage: Stage, redis_url: str) -> Iterator[EngineThread]:
    engine = EngineThread(
        stage.loaded,
        stage.structure,
        stage.registry,
        Settings(redis_url=redis_url, resident_mb=stage.budget(SLOTS) / 2**20),
        deltas=Deltas(stage.registry.blobs),
        worker="worker",
        base_version=stage.base_version,
        on_fatal=lambda error: pytest.fail(str(error)),
    )
    engine.start()
    yield engine
    engine.stop(grace=0)


@pytest.fixture
def follow(stage: Stage, engine: EngineThread, redis_url: str) -> Iterator[Callable[[], Following]]:
    """Looks at `active` until nothing is loading any more."""
    with Redis.from_url(redis_url) as redis:
        following = Following(stage.registry, redis, engine, Changes(poll_seconds=0))

        def step() -> Following:
            deadline = time.monotonic() + 20
            following.step()
            while following.loading:
                assert time.monotonic() < deadline
                time.sleep(0.01)
                following.step()
            return following

        yield step


def test_every_version_of_a_split_is_loaded(
    stage: Stage, engine: EngineThread, follow: Callable[[], Following]
) -> None:
    v1, v2 = stage.publish(1), stage.publish(2)
    stage.registry.aliases.move(ACTIVE, stage.base_version, 0)
    assert follow().active == stage.base_version
    assert engine.status().versions == [stage.base_version]

    stage.registry.aliases.move(ACTIVE, {stage.base_version: 9, v1: 1}, 1)
    assert follow().active == stage.base_version
    assert engine.status().versions == [stage.base_version, v1]

    stage.registry.aliases.move(ACTIVE, {v2: 9, v1: 1}, 2)
    following = follow()
    assert following.active == v2, "the heaviest"
    assert sorted(engine.status().versions) == sorted([stage.base_version, v1, v2])
    assert following.refused == {}


def test_a_split_that_does_not_fit_in_memory_is_told(
    stage: Stage,
    engine: EngineThread,
    follow: Callable[[], Following],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = [stage.publish(seed) for seed in range(1, SLOTS + 2)]
    stage.registry.aliases.move(ACTIVE, {made[0]: 3, made[1]: 1, stage.base_version: 1}, 0)
    with caplog.at_level(logging.WARNING):
        follow()
        assert caplog.messages == [], "the base takes no slot"
        stage.registry.aliases.move(ACTIVE, dict.fromkeys(made, 1), 1)
        follow()
    assert "MEMIT_RESIDENT_MB" in caplog.text
    assert engine.status().alive


def test_a_version_of_the_split_that_cannot_be_loaded_says_why(
    stage: Stage, engine: EngineThread, follow: Callable[[], Following]
) -> None:
    healthy, sick = stage.publish(1), stage.publish(2)
    stage.blob_files(sick)[0].unlink()
    stage.registry.aliases.move(ACTIVE, {healthy: 9, sick: 1}, 0)
    refused = follow().refused
    assert list(refused) == [sick]
    assert "is missing" in refused[sick]
    assert engine.status().versions == [stage.base_version, healthy]

"""The whole engine on a real Redis: serving, hanging up, stopping, and Redis dying under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.embedded_redis import EmbeddedRedis
from contracts.generation import ErrorEvent, StartEvent
from contracts.ids import VersionId
from contracts.settings import Settings
from contracts.transport import GENERATE_STREAM
from tests.unit.worker.engine.service_side import ServiceSide
from tests.unit.worker.engine.stage import PROMPTS, Stage, make_stage, task, wait_for
from worker.deltas import Deltas
from worker.engine.thread import EngineThread, _resident_bytes

Start = Callable[..., EngineThread]


@pytest.fixture
def stage(registry_path: Path) -> Stage:
    return make_stage("llama", registry_path)


@pytest.fixture
def fatal() -> list[BaseException]:
    return []


@pytest.fixture
def start(stage: Stage, fatal: list[BaseException], tmp_path: Path) -> Iterator[Start]:
    """Starts engines that are stopped at the end of the test."""
    running: list[EngineThread] = []

    def start_one(url: str, **settings: Any) -> EngineThread:
        thread = EngineThread(
            stage.loaded,
            stage.structure,
            stage.registry,
            Settings(home=tmp_path, redis_url=url, **settings),
            deltas=Deltas(stage.registry.blobs),
            worker=f"engine-{len(running)}",
            base_version=stage.base_version,
            on_fatal=fatal.append,
        )
        thread.start()
        running.append(thread)
        return thread

    yield start_one
    for thread in running:
        thread.stop(grace=0)


def test_answers_through_redis_are_those_of_generate(
    stage: Stage, start: Start, redis_url: str
) -> None:
    service = ServiceSide(redis_url)
    versions = [stage.base_version, stage.publish(1), stage.publish(2)]
    asked = [(version, prompt) for version in versions for prompt in PROMPTS[:3]]
    early = [service.send(task(prompt, version)) for version, prompt in asked[:4]]
    engine = start(redis_url, max_batch=4)
    late = [service.send(task(prompt, version)) for version, prompt in asked[4:]]

    for request, (version, prompt) in zip([*early, *late], asked, strict=True):
        assert service.answer(request) == stage.generated(version, prompt)
        first = service.events(request)[0]
        assert first == StartEvent(id=request, version=version, worker="engine-0")

    status = engine.status()
    assert status.alive
    assert status.versions[0] == stage.base_version
    assert sorted(status.versions) == sorted(versions)
    assert status.generated_tokens >= 9 * 2
    wait_for(lambda: engine.status().running == 0)


def test_a_version_is_brought_in_while_the_engine_is_idle(
    stage: Stage, start: Start, redis_url: str
) -> None:
    version = stage.publish(1)
    engine = start(redis_url)
    engine.ensure(version).result(timeout=5)
    assert version in engine.status().versions


def test_a_client_that_hangs_up_frees_its_row(stage: Stage, start: Start, redis_url: str) -> None:
    service = ServiceSide(redis_url)
    engine = start(redis_url, max_batch=1)
    leaver = service.send(task(PROMPTS[0], stage.base_version, max_tokens=250))
    wait_for(lambda: len(service.text(leaver)) > 10)
    service.hang_up(leaver)
    next_one = service.send(task(PROMPTS[1], stage.base_version))
    assert service.answer(next_one) == stage.generated(stage.base_version, PROMPTS[1])
    assert engine.status().generated_tokens < 250


def test_bad_and_late_requests_are_told_so(stage: Stage, start: Start, redis_url: str) -> None:
    service = ServiceSide(redis_url)
    start(redis_url)
    too_long = service.send(task("t5 " * 300, stage.base_version))
    late = service.send(task("t5", stage.base_version, deadline=-5))
    statuses = []
    for request in (too_long, late):
        last = service.last(request)
        assert isinstance(last, ErrorEvent)
        statuses.append(last.problem.status)
        assert not any(isinstance(event, StartEvent) for event in service.events(request))
    assert statuses == [422, 503]


def test_stop_lets_short_answers_finish_and_ends_long_ones(
    stage: Stage, start: Start, redis_url: str
) -> None:
    service = ServiceSide(redis_url)
    engine = start(redis_url)
    short = service.send(task(PROMPTS[0], stage.base_version, max_tokens=30))
    wait_for(lambda: service.text(short) != "")
    engine.stop(grace=5)
    assert service.answer(short) == stage.generated(stage.base_version, PROMPTS[0], 30)
    assert not engine.status().alive

    engine = start(redis_url)
    long = service.send(task(PROMPTS[0], stage.base_version, max_tokens=250))
    wait_for(lambda: service.text(long) != "")
    engine.stop(grace=0)
    last = service.last(long)
    assert isinstance(last, ErrorEvent)
    assert (last.problem.status, last.problem.detail) == (503, "the worker is stopping")
    assert last.elsewhere, "the service may give it to another one"

    unread = service.send(task(PROMPTS[0], stage.base_version))
    time.sleep(0.2)
    assert service.redis.xlen(GENERATE_STREAM) == 1, "left for another engine"
    start(redis_url)
    assert service.answer(unread) == stage.generated(stage.base_version, PROMPTS[0])


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "own-redis")
    server.start()
    yield server
    server.stop()


def test_redis_killed_in_the_middle_of_an_answer(
    stage: Stage, start: Start, own_redis: EmbeddedRedis, fatal: list[BaseException]
) -> None:
    """While Redis is away versions still come and go; when it is back the engine serves again,
    and the broken answer was either completed without a gap or ended with an error."""
    version = stage.publish(1)
    engine = start(own_redis.url)
    service = ServiceSide(own_redis.url)
    broken = service.send(task(PROMPTS[0], stage.base_version, max_tokens=200))
    wait_for(lambda: len(service.text(broken)) > 20)

    own_redis.kill()
    engine.ensure(version).result(timeout=10)
    time.sleep(0.3)
    own_redis.start()

    after = service.send(task(PROMPTS[1], version))
    assert service.answer(after) == stage.generated(version, PROMPTS[1])
    if service.events(broken) and not isinstance(service.last(broken), ErrorEvent):
        whole = stage.generated(stage.base_version, PROMPTS[0], 200)
        assert service.text(broken) == whole
    wait_for(lambda: engine.status().running == 0)
    assert engine.status().alive
    assert fatal == []


def test_redis_back_without_any_data(stage: Stage, start: Start, own_redis: EmbeddedRedis) -> None:
    engine = start(own_redis.url)
    service = ServiceSide(own_redis.url)
    lost = service.send(task(PROMPTS[0], stage.base_version, max_tokens=250))
    wait_for(lambda: service.text(lost) != "")
    own_redis.kill()
    for file in own_redis.folder.rglob("*.aof*"):
        file.unlink()
    own_redis.start()
    after = service.send(task(PROMPTS[1], stage.base_version))
    assert service.answer(after) == stage.generated(stage.base_version, PROMPTS[1])
    assert service.events(lost) == []
    wait_for(lambda: engine.status().running == 0)


def test_an_engine_may_start_before_its_redis(
    stage: Stage, start: Start, own_redis: EmbeddedRedis
) -> None:
    own_redis.stop()
    engine = start(own_redis.url)
    time.sleep(0.2)
    assert engine.status().alive
    own_redis.start()
    service = ServiceSide(own_redis.url)
    request = service.send(task(PROMPTS[0], stage.base_version))
    assert service.answer(request) == stage.generated(stage.base_version, PROMPTS[0])


def break_forward(engine: EngineThread, error: Exception) -> None:
    """Make the next forward raise, as a device would."""

    def raise_it(*_: Any) -> None:
        handle.remove()
        raise error

    handle = engine._engine._view.model.register_forward_pre_hook(raise_it)


def test_a_lost_device_ends_the_process_by_the_callback(
    stage: Stage, start: Start, redis_url: str, fatal: list[BaseException]
) -> None:
    service = ServiceSide(redis_url)
    engine = start(redis_url)
    break_forward(engine, RuntimeError("CUDA error: device-side assert triggered"))
    request = service.send(task(PROMPTS[0], stage.base_version))
    last = service.last(request)
    assert isinstance(last, ErrorEvent)
    assert last.problem.status == 503
    wait_for(lambda: not engine.status().alive)
    assert "device-side assert" in str(fatal[0])


def test_an_unexpected_failure_is_logged_and_survived(
    stage: Stage,
    start: Start,
    redis_url: str,
    fatal: list[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = ServiceSide(redis_url)
    engine = start(redis_url)
    break_forward(engine, ValueError("nobody expected this"))
    request = service.send(task(PROMPTS[0], stage.base_version))
    assert isinstance(service.last(request), ErrorEvent)
    again = service.send(task(PROMPTS[0], stage.base_version))
    assert service.answer(again) == stage.generated(stage.base_version, PROMPTS[0])
    assert "nobody expected this" in caplog.text
    (record,) = [one for one in caplog.records if "a step failed" in one.message]
    assert (record.generation_id, record.version_id) == (request, stage.base_version)  # type: ignore[attr-defined]
    assert fatal == []


def test_a_swap_under_load_drops_delays_and_mixes_nothing(
    stage: Stage, start: Start, redis_url: str
) -> None:
    """Answers flow while versions are installed one after the other; each is its own version's."""
    service = ServiceSide(redis_url)
    engine = start(redis_url, max_batch=8)
    versions: list[VersionId] = [stage.base_version]
    asked: list[tuple[str, VersionId, str]] = []
    stop = threading.Event()

    def keep_asking() -> None:
        number = 0
        while not stop.is_set():
            prompt, version = PROMPTS[number % len(PROMPTS)], versions[-1]
            asked.append((service.send(task(prompt, version, max_tokens=20)), version, prompt))
            number += 1
            time.sleep(0.03)

    client = threading.Thread(target=keep_asking)
    client.start()
    for seed in (1, 2, 3):
        version = stage.publish(seed)
        engine.ensure(version).result(timeout=10)
        versions.append(version)
        time.sleep(0.25)
    stop.set()
    client.join()

    assert {version for _, version, _ in asked} == set(versions)
    for request, version, prompt in asked:
        assert service.answer(request) == stage.generated(version, prompt, 20)


def test_edited_versions_take_as_much_memory_as_the_model_or_a_part_of_what_is_free(
    registry_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make_stage("llama", registry_path).loaded
    model = sum(parameter.nbytes for parameter in loaded.model.parameters())
    monkeypatch.setattr("worker.engine.thread.free_memory", lambda _: 4 * model)
    assert _resident_bytes(loaded, None) == model
    monkeypatch.setattr("worker.engine.thread.free_memory", lambda _: 2 * model)
    assert _resident_bytes(loaded, None) == model // 2
    assert _resident_bytes(loaded, 0.5) == 2**19

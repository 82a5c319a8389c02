"""A key that asks much does not keep the others waiting: in Redis, and in an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contracts.generation import GenerateTask
from contracts.transport import GENERATE_STREAM
from contracts.turns import FORGET, TURNS
from tests.unit.worker.engine.service_side import ServiceSide
from tests.unit.worker.engine.stage import Listener, Stage, make_stage, run_until, task
from worker.engine.streams import GenerationStreams

VERSION = "v0-0123456789ab"
GREEDY, MODEST, THIRD = "key-aaaaaaaaaaaaaaaa", "key-bbbbbbbbbbbbbbbb", "key-cccccccccccccccc"


@pytest.fixture
def service(redis_url: str) -> ServiceSide:
    return ServiceSide(redis_url)


def taken(streams: GenerationStreams, count: int) -> list[str | None]:
    found = streams.take(count, None) or streams.take(count, None)  # the first makes the group
    return [one.prompt for one in found]


def send(
    service: ServiceSide, principal: str, *prompts: str, priority: int = 0
) -> list[GenerateTask]:
    sent = [task(prompt, VERSION, principal=principal, priority=priority) for prompt in prompts]
    for one in sent:
        service.send(one)
    return sent


def test_engines_take_one_of_each_key_in_turn(service: ServiceSide, redis_url: str) -> None:
    """Also several engines together: whose turn it is, they know from Redis."""
    send(service, GREEDY, *(f"a{number}" for number in range(200)))
    send(service, MODEST, "b0", "b1")
    send(service, THIRD, "c0")
    one, two = (GenerationStreams(redis_url, f"engine-{number}") for number in range(2))
    assert taken(one, 3) == ["a0", "b0", "c0"]
    assert taken(two, 4) == ["a1", "b1", "a2", "a3"]
    send(service, THIRD, "c1")
    assert taken(one, 2) == ["a4", "c1"]
    rest = [prompt for _ in range(2) for prompt in taken(two, 200)]
    assert rest == [f"a{number}" for number in range(5, 200)]
    assert service.redis.xlen(GENERATE_STREAM) == 0
    assert service.redis.keys("memit:t*") + service.redis.keys("memit:w*") == []
    one.close()
    two.close()


def test_a_key_has_its_own_order_by_priority(service: ServiceSide, redis_url: str) -> None:
    send(service, GREEDY, "later", priority=5)
    send(service, GREEDY, "a0", "a1")
    send(service, MODEST, "b0", priority=100)
    send(service, GREEDY, "first", "second", priority=-100)
    streams = GenerationStreams(redis_url, "engine-1")
    assert taken(streams, 9) == ["first", "b0", "second", "a0", "a1", "later"]
    streams.close()


def test_one_that_is_given_up_leaves_its_place(service: ServiceSide, redis_url: str) -> None:
    streams = GenerationStreams(redis_url, "engine-1")
    first, gone, last = send(service, GREEDY, "a0", "a1", "a2")
    (alone,) = send(service, MODEST, "b0")
    entries = [entry for entry, _ in service.redis.xrange(GENERATE_STREAM)]
    for one, entry in ((gone, entries[1]), (alone, entries[3])):
        assert service.redis.eval(FORGET, 0, one.principal, one.id, entry) == 1
    assert service.redis.lrange(TURNS, 0, -1) == [GREEDY]
    assert taken(streams, 1) == [first.prompt]
    # An engine has it: the entry, which may stand for another by now, stays.
    assert service.redis.eval(FORGET, 0, GREEDY, first.id, entries[2]) == 0
    assert taken(streams, 9) == [last.prompt]
    streams.close()


def test_who_has_the_fewest_rows_comes_next(registry_path: Path) -> None:
    """Sixty answers of one key wait when another key's comes: it gets the first free row."""
    stage = make_stage("llama", registry_path)
    engine = stage.engine(max_batch=2)
    order: list[str] = []

    def ask(name: str, principal: str, **options: int) -> Listener:
        listener = Listener()

        def sink(event: object) -> None:
            listener(event)  # type: ignore[arg-type]
            if listener.started and name not in order:
                order.append(name)

        asked = task("t11 t7", stage.base_version, principal=principal, **options)
        engine.submit(asked, sink)
        return listener

    flood = [ask(f"a{n}", GREEDY, n=6, max_tokens=4, ignore_eos=True) for n in range(10)]
    engine.step()
    modest = ask("b", MODEST, max_tokens=4, ignore_eos=True)
    steps = 0
    while not modest.started:
        engine.step()
        steps += 1
    assert steps <= 5, "as soon as a row of four tokens was free"
    run_until(engine, lambda: all(one.started for one in flood))
    assert order == ["a0", "b", *(f"a{n}" for n in range(1, 10))], "each key's own in order"


def test_an_engine_admits_by_priority_within_a_key(registry_path: Path) -> None:
    stage = make_stage("llama", registry_path)
    engine = stage.engine(max_batch=1)
    order: list[str] = []
    for name, principal, priority in (
        ("running", GREEDY, 0),
        ("a", GREEDY, 0),
        ("b", MODEST, 9),
        ("urgent", GREEDY, -1),
    ):

        def sink(event: object, name: str = name) -> None:
            if name not in order:
                order.append(name)

        options: dict[str, Any] = {"principal": principal, "priority": priority, "max_tokens": 4}
        engine.submit(task("t11 t7", stage.base_version, ignore_eos=True, **options), sink)
        if name == "running":
            engine.step()
    run_until(engine, lambda: len(order) == 4)
    assert order == ["running", "b", "urgent", "a"]


def test_with_one_key_the_order_is_that_of_arrival(registry_path: Path) -> None:
    stage: Stage = make_stage("llama", registry_path)
    engine = stage.engine(max_batch=1)
    listeners = []
    for _ in range(4):
        listeners.append(Listener())
        asked = task("t11 t7", stage.base_version, max_tokens=3, ignore_eos=True)
        engine.submit(asked, listeners[-1])
    for waiting in range(4):
        run_until(engine, lambda at=waiting: listeners[at].started)
        assert [one.started for one in listeners].count(True) == waiting + 1

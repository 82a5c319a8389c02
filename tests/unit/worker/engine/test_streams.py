"""Tasks are taken once and only for clients that are there; events arrive whole or not at all."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded_redis import EmbeddedRedis
from contracts.errors import Unavailable
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    StartEvent,
    TakenEvent,
    TokenEvent,
    Usage,
)
from contracts.transport import ENGINE_GROUP, GENERATE_STREAM, output_stream
from contracts.turns import PUT
from tests.unit.worker.engine.service_side import ServiceSide
from tests.unit.worker.engine.stage import task, wait_for
from worker.engine import streams as streams_module
from worker.engine.streams import GenerationStreams

VERSION = "v0-0123456789ab"


@pytest.fixture
def service(redis_url: str) -> ServiceSide:
    return ServiceSide(redis_url)


@pytest.fixture
def streams(redis_url: str) -> Iterator[GenerationStreams]:
    found = GenerationStreams(redis_url, "engine-1")
    yield found
    found.close()


def token(text: str) -> TokenEvent:
    return TokenEvent(text=text)


def end(choice: int = 0) -> EndEvent:
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    return EndEvent(choice=choice, version=VERSION, finish_reason="stop", usage=usage)


def take(streams: GenerationStreams, count: int) -> list[str]:
    """Ids of the tasks taken; the first call may only make the group."""
    taken = streams.take(count, None) or streams.take(count, None)
    return [found.prompt for found in taken]


def test_no_more_tasks_than_there_is_room_for(
    service: ServiceSide, streams: GenerationStreams
) -> None:
    """Sent before any engine was there, they wait; taken, they are gone from the stream."""
    for prompt in "abc":
        service.send(task(prompt, VERSION))
    assert take(streams, 2) == ["a", "b"]
    assert service.redis.xlen(GENERATE_STREAM) == 1
    assert take(streams, 0) == []
    assert take(streams, 9) == ["c"]
    assert service.redis.xpending(GENERATE_STREAM, ENGINE_GROUP)["pending"] == 0


def test_a_task_whose_client_has_gone_is_skipped(
    service: ServiceSide, streams: GenerationStreams
) -> None:
    gone, here = task("gone", VERSION), task("here", VERSION)
    service.send(gone)
    service.send(here)
    service.hang_up(gone.id)
    assert take(streams, 9) == ["here"]


def test_a_task_that_cannot_be_read_is_thrown_away(
    service: ServiceSide, streams: GenerationStreams, caplog: pytest.LogCaptureFixture
) -> None:
    for name, body in (("a", '{"id": 7}'), ("b", "nonsense")):
        service.redis.xadd(output_stream(name), {"open": "1"})
        service.redis.eval(PUT, 0, "local", name, body, 100)
    service.redis.xadd(GENERATE_STREAM, {"stands": "for no task"})
    service.send(task("good", VERSION))
    assert take(streams, 9) == ["good"]
    assert "thrown away" in caplog.text
    assert service.redis.xlen(GENERATE_STREAM) == 0


def test_a_client_hears_who_took_its_task_and_then_the_whole_answer(
    service: ServiceSide, streams: GenerationStreams
) -> None:
    """So that it is missed if that worker dies before it has begun."""
    request = service.send(task("p", VERSION))
    assert take(streams, 1) == ["p"]
    [_, (_, fields)] = service.redis.xrange(output_stream(request))
    assert TakenEvent.model_validate_json(fields["event"]) == TakenEvent(worker="engine-1")
    sink = streams.sink(request)
    for event in (token("a"), end()):
        sink(event)
    assert streams.flush() == []
    assert service.events(request) == [token("a"), end()]


def test_two_engines_never_take_the_same_task(
    service: ServiceSide, streams: GenerationStreams, redis_url: str
) -> None:
    other = GenerationStreams(redis_url, "engine-2")
    take(other, 1)
    for number in range(6):
        service.send(task(str(number), VERSION))
    taken = [*take(streams, 2), *take(other, 3), *take(streams, 9)]
    assert sorted(taken) == list("012345")
    other.close()


def test_what_a_dead_engine_read_is_claimed_by_another(
    service: ServiceSide, streams: GenerationStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died between reading and acknowledging."""
    take(streams, 1)
    service.send(task("orphan", VERSION))
    read = service.redis.xreadgroup(ENGINE_GROUP, "dead", {GENERATE_STREAM: ">"}, count=1)
    assert len(read) == 1
    assert take(streams, 9) == [], "it may be alive yet"

    monkeypatch.setattr(streams_module, "CLAIM_SECONDS", 0)
    heir = GenerationStreams(service.redis_url, "engine-2")
    assert take(heir, 9) == ["orphan"]
    assert service.redis.xpending(GENERATE_STREAM, ENGINE_GROUP)["pending"] == 0
    heir.close()


def test_events_of_a_step_arrive_in_order(service: ServiceSide, streams: GenerationStreams) -> None:
    """The stream lives an hour while the answer grows, and a minute when it is complete."""
    request = service.send(task("p", VERSION))
    other = service.send(task("q", VERSION))
    sink, other_sink = streams.sink(request), streams.sink(other)
    written: list[GenerateEvent] = [StartEvent(id=request, version=VERSION, worker="w")]
    written += [token("a"), token("é🗼")]
    for event in written:
        sink(event)
    other_sink(token("x"))
    assert streams.flush() == []
    assert service.events(request) == written
    assert service.events(other) == [token("x")]
    assert service.redis.ttl(output_stream(request)) > 3000

    sink(end())
    assert streams.flush() == []
    assert service.events(request) == [*written, end()]
    assert service.redis.ttl(output_stream(request)) <= 60


def test_an_answer_of_choices_is_complete_with_the_end_of_each(
    service: ServiceSide, streams: GenerationStreams
) -> None:
    """In steps of their own or in one, and before an error."""
    request, other, failing = (service.send(task(prompt, VERSION)) for prompt in "pqr")
    sink, other_sink, failing_sink = (streams.sink(r, 3) for r in (request, other, failing))
    for event in (StartEvent(id=request, version=VERSION, worker="w"), end(2)):
        sink(event)
    assert streams.flush() == []
    assert service.redis.ttl(output_stream(request)) > 3000

    failed = ErrorEvent(problem=Unavailable("no memory").problem())
    written = [end(0), TokenEvent(choice=1, text="a"), end(1)]
    for event in written:
        sink(event)
    for choice in range(3):
        other_sink(end(choice))
    for event in (end(1), failed):
        failing_sink(event)
    assert streams.flush() == []
    assert service.events(request)[2:] == written
    for complete in (request, other, failing):
        assert service.redis.ttl(output_stream(complete)) <= 60
    sink(token("late"))
    assert streams.flush() == []
    assert len(service.events(request)) == 5


def test_nothing_is_written_to_a_client_that_hung_up(
    service: ServiceSide, streams: GenerationStreams
) -> None:
    left, stays = service.send(task("p", VERSION)), service.send(task("q", VERSION))
    sinks = [streams.sink(left), streams.sink(stays)]
    for sink in sinks:
        sink(token("a"))
    streams.flush()
    service.hang_up(left)
    for sink in sinks:
        sink(token("b"))

    assert streams.flush() == [left]
    assert service.redis.exists(output_stream(left)) == 0
    assert service.text(stays) == "ab"
    sinks[0](token("c"))
    assert streams.flush() == [], "it is forgotten"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def flush_until_written(streams: GenerationStreams) -> list[str]:
    gone: list[str] = []
    for _ in range(2000):
        gone += streams.flush()
        if not any(output.pending for output in streams._outputs.values()):
            return gone
        streams.take(0, 5)
    raise AssertionError("it was never written")


def test_while_redis_is_away_events_are_kept_and_then_written_once(
    own_redis: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    service, streams = ServiceSide(own_redis.url), GenerationStreams(own_redis.url, "w")
    request = service.send(task("p", VERSION))
    assert take(streams, 1) == ["p"]
    sink = streams.sink(request)
    sink(token("a"))
    streams.flush()

    own_redis.stop()  # cleanly: what was confirmed is on disk
    for text in "bc":
        sink(token(text))
        assert streams.flush() == []
        assert streams.take(1, 1) == []
    own_redis.start()
    sink(end())

    assert flush_until_written(streams) == []
    assert service.text(request) == "abc"
    assert isinstance(service.events(request)[-1], EndEvent)
    assert caplog.text.count("Redis is away") == 1
    service.send(task("after", VERSION))
    assert take(streams, 1) == ["after"]
    streams.close()


def test_a_write_whose_confirmation_was_lost_is_not_repeated(
    own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis freezes, gets the write but answers too late, and does it when it goes on."""
    monkeypatch.setattr(streams_module, "SOCKET_SECONDS", 0.2)
    service, streams = ServiceSide(own_redis.url), GenerationStreams(own_redis.url, "w")
    request = service.send(task("p", VERSION))
    sink = streams.sink(request)
    sink(token("a"))
    streams.flush()
    assert own_redis.process is not None

    own_redis.process.send_signal(signal.SIGSTOP)
    sink(token("b"))
    assert streams.flush() == []
    own_redis.process.send_signal(signal.SIGCONT)
    wait_for(lambda: service.text(request) == "ab")
    for event in (token("c"), end()):
        sink(event)

    assert flush_until_written(streams) == []
    assert service.text(request) == "abc"
    assert len(service.events(request)) == 4
    streams.close()


def test_an_answer_of_which_redis_lost_a_part_ends_with_an_error(
    own_redis: EmbeddedRedis,
) -> None:
    """Redis confirmed an event and came back without it: no text is better than text with a gap."""
    service, streams = ServiceSide(own_redis.url), GenerationStreams(own_redis.url, "w")
    request = service.send(task("p", VERSION))
    sink = streams.sink(request)
    for text in "ab":
        sink(token(text))
    streams.flush()
    newest, _ = service.redis.xrevrange(output_stream(request), count=1)[0]
    service.redis.xdel(output_stream(request), newest)
    sink(token("c"))

    assert streams.flush() == [request]
    last = service.last(request)
    assert isinstance(last, ErrorEvent)
    assert last.problem.status == 503
    streams.close()


def test_wiped_and_back_redis_is_used_again(own_redis: EmbeddedRedis) -> None:
    service, streams = ServiceSide(own_redis.url), GenerationStreams(own_redis.url, "w")
    take(streams, 1)
    request = service.send(task("p", VERSION))
    sink = streams.sink(request)
    sink(token("a"))
    streams.flush()
    service.redis.flushall()
    sink(token("b"))
    assert streams.flush() == [request], "its stream is gone"
    service.send(task("next", VERSION))
    assert take(streams, 9) == ["next"]
    streams.close()

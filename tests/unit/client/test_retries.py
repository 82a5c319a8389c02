"""What is sent again, what is not, and how long the client waits before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from cli.embedded_redis import free_port
from memit_client import (
    Conflict,
    ConnectionFailed,
    Fact,
    InvalidRequest,
    PreconditionFailed,
    Refused,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
)
from memit_client.endpoints import Repeat
from memit_client.problems import Problem
from memit_client.retry import LONGEST_WISH, pause
from registry.registry import Registry
from tests.unit.client.both_ways import Connect
from tests.unit.client.proxy import Cut, Own, Proxy, proxy
from tests.unit.service.worker_peer import Editor, Engine

ROME = Fact(subject="The Eiffel Tower", prompt="{} is located in the city of", target_new="Rome")
BUSY = Own(503, {"Retry-After": "0"})
FULL = Own(429, {"Retry-After": "0"})


@pytest.fixture
def between(url: str) -> Iterator[Proxy]:
    with proxy(url) as made:
        yield made


@pytest.fixture
def client(connect: Connect, between: Proxy) -> Any:
    return connect(between.url)


def test_503_and_429_are_asked_again(client: Any, between: Proxy) -> None:
    between.script = [BUSY, FULL]
    assert client.get_version("v0").seq == 0
    assert [(method, path) for method, path, _ in between.seen] == [("GET", "/versions/v0")] * 3


def test_not_for_ever(client: Any, between: Proxy) -> None:
    between.script = [BUSY] * 3
    with pytest.raises(Unavailable) as caught:
        client.get_version("v0")
    assert len(between.seen) == 3
    assert (caught.value.status, caught.value.retry_after) == (503, 0)
    assert "<html>busy</html>" in caught.value.detail


def test_not_at_all_if_told_so(connect: Connect, between: Proxy) -> None:
    between.script = [FULL]
    with pytest.raises(TooManyRequests):
        connect(between.url, max_retries=0).health()
    assert len(between.seen) == 1


def test_retry_after_is_honoured(client: Any, between: Proxy) -> None:
    between.script = [Own(503, {"Retry-After": "1"})]
    begun = time.monotonic()
    client.health()
    assert 1 <= time.monotonic() - begun < 5


def test_an_edit_is_accepted_once_however_often_its_answer_is_lost(
    client: Any, between: Proxy, registry: Registry
) -> None:
    between.script = [Cut(after=10)]
    edit = client.edit([ROME])
    assert [accepted.id for accepted in client.edits()] == [edit.id]
    first, second, _ = between.headers("idempotency-key")
    assert first == second is not None


def test_a_retraction_too(client: Any, between: Proxy, registry: Registry, editor: Editor) -> None:
    editor.run(client.edit([ROME]).id)
    (fact,) = client.facts()
    between.script = [Cut()]
    edit = client.retract(fact.id)
    editor.run(edit.id)
    assert list(client.facts()) == []
    assert len(list(client.edits())) == 2


def test_what_may_be_done_already_is_not_repeated(
    client: Any, between: Proxy, registry: Registry
) -> None:
    between.script = [Cut()]
    with pytest.raises(ConnectionFailed, match="RemoteProtocolError"):
        client.set_alias("stable", "v0", if_epoch=0)
    assert len(between.seen) == 1
    assert registry.aliases.get("stable")


def test_a_generation_is_repeated_while_it_was_refused(
    client: Any, between: Proxy, engine: Engine
) -> None:
    between.script = [FULL, BUSY]
    assert client.generate("The Eiffel Tower is in").text == " Rome."
    assert len(engine.tasks) == 1
    between.script = [Cut()]
    with pytest.raises(ConnectionFailed):
        client.generate("The Eiffel Tower is in")
    assert len(engine.tasks) == 2


def test_refusals_are_not_repeated(client: Any, between: Proxy) -> None:
    for status, kind in ((400, InvalidRequest), (409, Conflict), (412, PreconditionFailed)):
        between.script = [Own(status)]
        with pytest.raises(kind):
            client.health()
    between.script = [Own(500, body=b"")]
    with pytest.raises(Refused, match=r"Internal Server Error \(500\)"):
        client.health()
    assert len(between.seen) == 4


@pytest.mark.parametrize(
    "answer",
    [
        Own(200, {"Content-Type": "application/json"}, b'{"status": 5}'),
        Own(301, {"Location": "/"}),
        Own(200),
    ],
)
def test_another_program_at_the_url(client: Any, between: Proxy, answer: Own) -> None:
    between.script = [answer]
    with pytest.raises(UnexpectedAnswer):
        client.health()


def test_nobody_at_the_url(connect: Connect) -> None:
    with pytest.raises(ConnectionFailed, match="ConnectError") as caught:
        connect(f"http://127.0.0.1:{free_port()}", max_retries=1).health()
    assert caught.value.sent is False


def test_a_service_that_says_nothing_in_time(
    connect: Connect, url: str, redis_url: str, registry: Registry
) -> None:
    """The engine takes a task and is silent; the service waits for it for two seconds."""
    engine = Engine(redis_url, lambda *_: None)
    with engine.running():
        engine.report(versions=[registry.versions.resolve("v0")])
        with pytest.raises(ConnectionFailed, match="ReadTimeout") as caught:
            connect(url, timeout=0.3).generate("The Eiffel Tower is in")
    assert caught.value.sent
    assert len(engine.tasks) == 1


def refusal(kind: type[Refused], retry_after: float | None = None) -> Refused:
    problem = Problem(type="x", title="x", status=503, detail="x")
    return kind(problem, retry_after)


def test_how_long_it_waits() -> None:
    lost = ConnectionFailed("gone")
    first, second, late = (pause(lost, Repeat.ALWAYS, tried) for tried in (0, 1, 20))
    assert 0.375 <= first <= 0.5
    assert 0.75 <= second <= 1
    assert 6 <= late <= 8
    assert len({pause(lost, Repeat.ALWAYS, 0) for _ in range(9)}) > 1
    assert pause(refusal(Unavailable, 7), Repeat.REFUSED, 0) == 7
    assert pause(refusal(Unavailable, LONGEST_WISH + 1), Repeat.ALWAYS, 0) is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionFailed("never there", sent=False), (False, True, True)),
        (ConnectionFailed("broken off"), (False, False, True)),
        (refusal(Unavailable), (False, True, True)),
        (refusal(TooManyRequests), (False, True, True)),
        (refusal(Conflict), (False, False, False)),
        (UnexpectedAnswer("x"), (False, False, False)),
    ],
)
def test_what_may_be_repeated(error: Any, again: tuple[bool, bool, bool]) -> None:
    kinds = (Repeat.NEVER, Repeat.REFUSED, Repeat.ALWAYS)
    assert tuple(pause(error, kind, 0) is not None for kind in kinds) == again

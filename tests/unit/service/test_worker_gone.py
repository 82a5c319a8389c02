"""A worker dies with requests of others: another one answers them, on the same version."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
import redis as blocking

from contracts.errors import Unavailable
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateTask,
    TakenEvent,
    TokenEvent,
    Usage,
)
from contracts.transport import GENERATE_STREAM, output_stream, worker_key
from service.flight import MOST_TRIES
from tests.unit.service.conftest import Serve
from tests.unit.service.worker_peer import Editor, Engine, says

ASK = {"prompt": "The Eiffel Tower is in", "max_tokens": 8}
GONE = "the worker that generated the answer is gone"


class Dying:
    """Workers that take tasks under their own names and die with them, and what they took."""

    def __init__(
        self, url: str, *, taken: bool = True, starts: bool = True, text: str = ""
    ) -> None:
        self.tasks: list[GenerateTask] = []
        self.after: Any = says(" Rome")
        """What a worker does once `deaths` have happened."""
        self.deaths = 1
        self._taken, self._starts, self._text = taken, starts, text
        self._redis = blocking.Redis.from_url(url)

    def __call__(self, engine: Engine, task: GenerateTask) -> None:
        self.tasks.append(task)
        if len(self.tasks) > self.deaths:
            self.after(engine, task)
            return
        name, engine.name = engine.name, f"dead-{len(self.tasks)}"
        if self._taken:
            event = TakenEvent(worker=engine.name).model_dump_json()
            self._redis.xadd(output_stream(task.id), {"event": event}, nomkstream=True)
        if self._starts:
            engine.begin(task)
        if self._text:
            engine.emit(task, TokenEvent(text=self._text))
        engine.name = name


@pytest.fixture
def client(serve: Serve, editor: Editor) -> httpx2.Client:
    return serve(start_timeout=10)


@pytest.fixture
def running(redis_url: str) -> Iterator[Any]:
    """Begins an engine that is ready and does as the script says."""
    with ExitStack() as stack:

        def run(script: Any) -> Engine:
            engine = stack.enter_context(Engine(redis_url, script).running())
            engine.report(versions=[])
            return engine

        yield run


@pytest.mark.parametrize(
    "how", [{"starts": False}, {"taken": False}, {"text": " Par"}], ids=["taken", "begun", "said"]
)
def test_an_answer_comes_whole_from_another_worker(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any, how: dict[str, Any]
) -> None:
    """Whether the dead one had only taken it, had begun, or had said half of it."""
    dying = Dying(redis_url, **how)
    running(dying)
    begun = time.monotonic()
    answer = client.post("/generate", json=ASK)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == " Rome", "nothing of what the dead one had said"
    assert answer.json()["usage"]["completion_tokens"] == 1
    assert [task.version for task in dying.tasks] == [editor.registry.versions.resolve("v0")] * 2
    assert dying.tasks[0].id != dying.tasks[1].id
    assert time.monotonic() - begun < 10
    with blocking.Redis.from_url(redis_url) as redis:
        assert redis.keys("memit:generation:*") == []
        assert redis.xlen(GENERATE_STREAM) == 0


def test_each_choice_begins_anew(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any
) -> None:
    """Also one that had ended: all choices of an answer are one worker's."""

    def both(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        for choice in range(2):
            engine.emit(task, TokenEvent(choice=choice, text=f" {choice}"))
            used = Usage(prompt_tokens=5, completion_tokens=1)
            end = EndEvent(choice=choice, version=task.version, finish_reason="stop", usage=used)
            engine.emit(task, end)

    dying = Dying(redis_url, text=" half")
    dying.after = both
    running(dying)
    answer = client.post("/generate", json={**ASK, "n": 2, "temperature": 1})
    assert [one["text"] for one in answer.json()["choices"]] == [" 0", " 1"]


@pytest.mark.parametrize("how", [{"starts": False}, {}], ids=["taken", "begun"])
def test_a_stream_without_text_goes_on_with_another_worker(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any, how: dict[str, Any]
) -> None:
    running(Dying(redis_url, **how))
    assert [name for name, _ in events_of(client)] == ["start", "token", "end", "message"]


def test_a_stream_that_has_text_ends_and_says_so(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any
) -> None:
    dying = Dying(redis_url, text=" Par")
    running(dying)
    events = events_of(client)
    assert [name for name, _ in events] == ["start", "token", "error"]
    problem = json.loads(events[-1][1])
    assert (problem["status"], problem["detail"]) == (503, GONE)
    assert len(dying.tasks) == 1


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_without_another_worker_it_is_said_when_to_ask_again(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any, path: str
) -> None:
    def only(worker: Engine, task: GenerateTask) -> None:
        worker.begin(task)
        worker.die()

    running(only)
    answer = client.post(path, json=ASK)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "no worker is ready to generate" in answer.text


def test_a_request_that_kills_workers_kills_no_more_than_a_few(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any
) -> None:
    dying = Dying(redis_url)
    dying.deaths = 100
    running(dying)
    answer = client.post("/generate", json=ASK, timeout=30)
    assert (answer.status_code, answer.json()["detail"]) == (503, GONE)
    assert len(dying.tasks) == MOST_TRIES


def test_a_worker_that_only_slept_spoils_nothing(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any
) -> None:
    """It wakes up and goes on with the answer, which is another one's now."""
    dying = Dying(redis_url, text=" Par")

    def wakes(engine: Engine, task: GenerateTask) -> None:
        with blocking.Redis.from_url(redis_url) as redis:
            redis.set(worker_key("dead-1"), "{}")
        assert not engine.emit(dying.tasks[0], TokenEvent(text="is")), "its stream is gone"
        says(" Rome")(engine, task)

    dying.after = wakes
    running(dying)
    assert client.post("/generate", json=ASK).json()["text"] == " Rome"


class Stopping(Dying):
    """Workers that are told to stop and say so."""

    def __call__(self, engine: Engine, task: GenerateTask) -> None:
        super().__call__(engine, task)
        if len(self.tasks) <= self.deaths:
            problem = Unavailable("the worker is stopping", retry_after=1).problem()
            engine.emit(task, ErrorEvent(problem=problem, elsewhere=True))


@pytest.mark.parametrize("text", ["", " Par"])
def test_what_a_worker_leaves_when_it_stops_is_answered_by_another(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any, text: str
) -> None:
    stopping = Stopping(redis_url, text=text)
    running(stopping)
    begun = time.monotonic()
    answer = client.post("/generate", json=ASK)
    assert (answer.status_code, answer.json()["text"]) == (200, " Rome")
    assert time.monotonic() - begun < 3, "nobody waits until it is gone"
    assert [task.version for task in stopping.tasks] == [editor.registry.versions.resolve("v0")] * 2


def test_a_stream_that_has_text_hears_that_its_worker_stops(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any
) -> None:
    stopping = Stopping(redis_url, text=" Par")
    running(stopping)
    events = events_of(client)
    assert [name for name, _ in events] == ["start", "token", "error"]
    assert json.loads(events[-1][1])["detail"] == "the worker is stopping"
    assert len(stopping.tasks) == 1


def test_who_stops_again_and_again_is_believed(
    client: httpx2.Client, editor: Editor, redis_url: str, running: Any
) -> None:
    stopping = Stopping(redis_url)
    stopping.deaths = 100
    running(stopping)
    assert client.post("/generate", json=ASK).status_code == 503
    assert len(stopping.tasks) == MOST_TRIES


def events_of(client: httpx2.Client) -> list[tuple[str, str]]:
    with client.stream("POST", "/generate", json={**ASK, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        return [(event.event, event.data) for event in httpx2.EventSource(answer)]

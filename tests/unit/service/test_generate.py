"""Generation from the request to the last token, with an engine that speaks the real protocol."""

from __future__ import annotations

import json
import secrets
import threading
import time
from typing import Any

import httpx2
import pytest
import redis as blocking

from contracts.errors import Problem
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateTask,
    StartEvent,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from contracts.keys import LOCAL, KeyRequest, Scope
from contracts.transport import GENERATE_STREAM
from contracts.turns import PUT
from registry.registry import Registry
from tests.unit.service.conftest import House, Serve
from tests.unit.service.facts import eiffel
from tests.unit.service.worker_peer import Editor, Engine, pieces, refuses, says

ASK = {"prompt": "The Eiffel Tower is in", "max_tokens": 4}


def events_of(client: httpx2.Client, body: dict[str, Any]) -> list[tuple[str, str]]:
    with client.stream("POST", "/generate", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        return [(event.event, event.data) for event in httpx2.EventSource(answer)]


def test_one_answer_as_json(client: httpx2.Client, editor: Editor, redis_url: str) -> None:
    with Engine(redis_url, says(" Ro", "me", ".")).running() as engine:
        engine.report(versions=[])
        answer = client.post("/generate", json={**ASK, "temperature": 0.7, "stop": ["\n"]})
    assert answer.status_code == 200
    body = answer.json()
    assert body["text"] == " Rome."
    assert body["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 3}
    (task,) = engine.tasks
    assert body["id"] == task.id
    assert body["version"] == answer.headers["X-Memit-Version"] == task.version
    assert (task.sampling.temperature, task.sampling.max_tokens) == (0.7, 4)
    assert task.sampling.stop == ["\n"]
    assert task.deadline > time.time()


def test_one_answer_as_events(client: httpx2.Client, editor: Editor, redis_url: str) -> None:
    with Engine(redis_url, says(" Ro", "me\n\n")).running() as engine:
        engine.report(versions=[])
        events = events_of(client, ASK)
    names = [name for name, _ in events]
    assert names == ["start", "token", "token", "end", "message"]
    (task,) = engine.tasks
    assert json.loads(events[0][1]) == {"id": task.id, "version": task.version}
    assert [json.loads(data) for _, data in events[1:3]] == [{"text": " Ro"}, {"text": "me\n\n"}]
    assert json.loads(events[3][1]) == {
        "version": task.version,
        "finish_reason": "length",
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }
    assert events[4][1] == "[DONE]"
    with blocking.Redis.from_url(redis_url) as connection:
        assert connection.keys("memit:generation:*") == []


def two_choices(engine: Engine, task: GenerateTask) -> None:
    """The second is complete first; each token is two nats."""

    def logprob(text: str) -> TokenLogprob:
        top = [TokenLogprob(token=" Oslo", token_id=5, logprob=-0.5)]
        return TokenLogprob(token=text, token_id=len(text), logprob=-2, top=top)

    engine.begin(task)
    for choice, text in ((0, " Ro"), (1, " Paris"), (0, "me")):
        event = TokenEvent(choice=choice, text=text, logprobs=[logprob(text)])
        engine.emit(task, event)
    for choice, reason in ((1, "stop"), (0, "length")):
        usage = Usage(prompt_tokens=5, completion_tokens=2 - choice)
        end = EndEvent(choice=choice, version=task.version, finish_reason=reason, usage=usage)
        engine.emit(task, end)


def test_choices_and_log_probabilities_as_json(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    with Engine(redis_url, two_choices).running() as engine:
        engine.report(versions=[])
        answer = client.post("/generate", json={**ASK, "n": 2, "logprobs": 1})
    body = answer.json()
    assert answer.status_code == 200, body
    first, second = body["choices"]
    assert (first["text"], first["finish_reason"]) == (" Rome", "length")
    assert (second["text"], second["finish_reason"]) == (" Paris", "stop")
    assert [choice["index"] for choice in (first, second)] == [0, 1]
    assert [one["token"] for one in first["logprobs"]] == [" Ro", "me"]
    assert second["logprobs"][0]["top"][0]["token"] == " Oslo"
    for name in ("text", "finish_reason", "logprobs"):
        assert body[name] == first[name]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 3}


def test_choices_and_log_probabilities_as_events(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    with Engine(redis_url, two_choices).running() as engine:
        engine.report(versions=[])
        events = events_of(client, {**ASK, "n": 2, "logprobs": 1})
    names = [name for name, _ in events]
    assert names == ["start", "token", "token", "token", "end", "end", "message"]
    tokens = [json.loads(data) for _, data in events[1:4]]
    assert [token["choice"] for token in tokens] == [0, 1, 0]
    assert [token["logprobs"][0]["logprob"] for token in tokens] == [-2] * 3
    assert [json.loads(data)["choice"] for _, data in events[4:6]] == [1, 0]


def test_what_was_not_asked_for_is_not_in_the_answer(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    with Engine(redis_url, says("x")).running() as engine:
        engine.report(versions=[])
        body = client.post("/generate", json=ASK).json()
    assert set(body) == {"id", "text", "version", "finish_reason", "usage"}


def test_every_option_reaches_the_engine(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    options = {
        "min_tokens": 2,
        "min_p": 0.1,
        "top_k": -1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "repetition_penalty": 1.1,
        "logit_bias": {"17": -100, "3": 0.5},
        "ignore_eos": True,
        "seed": 7,
    }
    with Engine(redis_url, says("x")).running() as engine:
        engine.report(versions=[])
        asked = {**ASK, **options, "priority": -3}
        assert client.post("/generate", json=asked).status_code == 200
    (task,) = engine.tasks
    assert task.priority == -3
    assert json.loads(task.sampling.model_dump_json(include=set(options))) == options


def test_tokens_come_as_they_are_made(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    seen = threading.Event()

    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        engine.emit(task, TokenEvent(text=" Ro"))
        assert seen.wait(10), "the first token was held back"
        engine.emit(task, TokenEvent(text="me"))
        engine.finish(task, 2)

    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[])
        with client.stream("POST", "/generate", json={**ASK, "stream": True}) as answer:
            for event in httpx2.EventSource(answer):
                if event.event == "token":
                    seen.set()
    assert seen.is_set()


def test_a_request_is_pinned_at_admission(
    client: httpx2.Client, editor: Editor, registry: Registry, redis_url: str
) -> None:
    v0 = registry.versions.by_seq(0)

    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        if len(engine.tasks) == 1:  # the swap comes while the first answer is being made
            editor.run(client.post("/edits", json={"facts": [eiffel()]}).json()["id"])
        engine.finish(task, 0)

    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[])
        versions = [client.post("/generate", json=ASK).json()["version"] for _ in range(2)]
        pinned = client.post("/generate", json={**ASK, "version": "v0"})
    assert versions == [v0, registry.versions.by_seq(1)]
    assert pinned.json()["version"] == pinned.headers["X-Memit-Version"] == v0


def test_an_answer_is_never_older_than_asked_for(
    client: httpx2.Client, editor: Editor, registry: Registry, redis_url: str
) -> None:
    editor.run(client.post("/edits", json={"facts": [eiffel()]}).json()["id"])
    v1 = registry.versions.by_seq(1)
    with Engine(redis_url, says("x")).running() as engine:
        engine.report(versions=[])
        for least in ("v0", "v1", v1):
            answer = client.post("/generate", json={**ASK, "min_version": least})
            assert answer.json()["version"] == v1
        for asked, detail in (
            ({"min_version": "v2"}, f"active is {v1}, which is older than min_version v2"),
            ({"min_version": "v1", "versions": ["active", "v0"]}, "older than min_version v1"),
        ):
            answer = client.post("/generate", json={**ASK, **asked})
            assert answer.status_code == 409
            assert detail in answer.json()["detail"]
    assert len(engine.tasks) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_keeps_its_status(
    client: httpx2.Client, editor: Editor, redis_url: str, stream: bool
) -> None:
    reason = "/prompt has 3000 tokens, at most 2048"
    with Engine(redis_url, refuses(422, reason)).running() as engine:
        engine.report(versions=[])
        answer = client.post("/generate", json={**ASK, "stream": stream})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == reason


def test_an_error_after_the_start_is_an_event(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        engine.emit(task, TokenEvent(text=" Ro"))
        problem = Problem(type="/problems/x", title="Lost", status=503, detail="out of memory")
        engine.emit(task, ErrorEvent(problem=problem))

    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[])
        events = events_of(client, ASK)
        whole = client.post("/generate", json=ASK)
    assert [name for name, _ in events] == ["start", "token", "error"]
    assert json.loads(events[2][1])["detail"] == "out of memory"
    assert whole.status_code == 503
    assert int(whole.headers["Retry-After"]) >= 1


def test_without_a_ready_worker(client: httpx2.Client, editor: Editor, redis_url: str) -> None:
    nobody = client.post("/generate", json=ASK)
    assert nobody.status_code == 503
    assert nobody.json()["detail"] == "no worker is ready to generate"
    assert int(nobody.headers["Retry-After"]) >= 1
    with Engine(redis_url, says("x")).running() as engine:
        engine.report(versions=[], ready=False)
        assert client.post("/generate", json=ASK).status_code == 503
        engine.report(versions=[])
        assert client.post("/generate", json=ASK).status_code == 200


def test_nobody_starts_before_the_deadline(serve: Serve, editor: Editor, redis_url: str) -> None:
    client = serve(start_timeout=0.5)
    Engine(redis_url, says("x")).report(versions=[])  # it says that it is ready and takes nothing
    answer = client.post("/generate", json=ASK)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "no engine started the request in time"
    with blocking.Redis.from_url(redis_url) as connection:
        assert connection.xlen(GENERATE_STREAM) == 0
        assert connection.keys("memit:generation:*") == []


def test_a_worker_that_dies_ends_the_answer(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        engine.emit(task, TokenEvent(text=" Ro"))
        engine.die()

    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[])
        events = events_of(client, ASK)
    assert [name for name, _ in events] == ["start", "token", "error"]
    problem = Problem.model_validate_json(events[2][1])
    assert (problem.status, problem.detail) == (503, "the worker that generated the answer is gone")


def test_redis_that_lost_everything_ends_the_answer(
    client: httpx2.Client, editor: Editor, redis_url: str
) -> None:
    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        with blocking.Redis.from_url(redis_url) as connection:
            connection.flushall()
        engine.report(versions=[])
        engine.leave()

    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[])
        answer = client.post("/generate", json=ASK)
        assert answer.status_code == 503
        assert answer.json()["detail"] == "Redis lost the request"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_engine(
    client: httpx2.Client, editor: Editor, redis_url: str, stream: bool
) -> None:
    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        deadline = time.monotonic() + 10
        while engine.emit(task, TokenEvent(text="x")) and time.monotonic() < deadline:
            time.sleep(0.02)

    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[])
        if stream:
            with client.stream("POST", "/generate", json={**ASK, "stream": True}) as answer:
                assert next(iter(httpx2.EventSource(answer))).event == "start"
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post("/generate", json=ASK, timeout=httpx2.Timeout(5, read=0.3))
        deadline = time.monotonic() + 5
        while not engine.dropped and time.monotonic() < deadline:
            time.sleep(0.02)
    assert engine.dropped == [engine.tasks[0].id]
    metrics = client.get("/metrics").text
    assert 'route="/generate",status="500"' not in metrics
    assert ('route="/generate",status="499"' in metrics) != stream


def wait_in_line(connection: Any, principal: str = "local") -> None:
    """Queue what no engine takes."""
    connection.eval(PUT, 0, principal, secrets.token_hex(10), "{}", 100)


def test_the_queue_is_bounded(serve: Serve, editor: Editor, redis_url: str) -> None:
    client = serve(max_queue=2)
    Engine(redis_url, says("x")).report(versions=[])
    with blocking.Redis.from_url(redis_url) as connection:
        for _ in range(2):
            wait_in_line(connection)
        answer = client.post("/generate", json=ASK)
        assert answer.status_code == 429
        assert answer.json()["detail"] == "2 generation requests wait already"
        assert int(answer.headers["Retry-After"]) >= 1
        assert connection.keys("memit:generation:*") == []


def test_many_questions_leave_others_their_turn(
    serve: Serve, editor: Editor, redis_url: str
) -> None:
    """Of 32 with four choices each, four are queued at a time; none waits too long for its own."""
    client = serve(start_timeout=1)
    depths: list[int] = []

    def slow(engine: Engine, task: GenerateTask) -> None:
        time.sleep(0.1)
        depths.append(connection.xlen(GENERATE_STREAM))
        pieces("x")(engine, task)

    with (
        blocking.Redis.from_url(redis_url) as connection,
        Engine(redis_url, slow).running() as engine,
    ):
        engine.report(versions=[])
        asked = {**ASK, "n": 4, "versions": ["v0"] * 32}
        answer = client.post("/generate", json=asked)
        assert len(answer.json()["answers"]) == 32
        assert connection.keys("memit:generation:*") == []
    assert max(depths) <= 3
    assert len(engine.tasks) == 32


def test_a_silent_task_is_looked_after_while_others_say_something(
    serve: Serve, editor: Editor, redis_url: str
) -> None:
    """The worker of one is gone; the other's goes on for longer than that takes to be seen."""
    client = serve(start_timeout=20)

    def script(engine: Engine, task: GenerateTask) -> None:
        begun = StartEvent(id=task.id, version=task.version, worker=workers[len(engine.tasks) - 1])
        engine.emit(task, begun)
        engine.emit(task, TokenEvent(text="x"))
        if begun.worker == engine.name:
            for _ in range(60):
                time.sleep(0.1)
                if not engine.emit(task, TokenEvent(text="x")):
                    return

    workers = ["gone", "worker-1"]
    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[])
        begun = time.monotonic()
        events = events_of(client, {"prompt": "x", "versions": ["v0", "v0"]})
    assert events[-1][0] == "error"
    assert "the worker that generated the answer is gone" in events[-1][1]
    assert time.monotonic() - begun < 5


def test_what_cannot_start_in_time_is_refused_at_once(
    serve: Serve, editor: Editor, redis_url: str
) -> None:
    """Of two workers, of which three waiting requests take some four seconds."""
    client = serve(start_timeout=2)
    for name, rate in (("one", 0.5), ("two", 0.25)):
        engine = Engine(redis_url, says("x"), name=name)
        engine.report(versions=[], starts_per_second=rate)
    with blocking.Redis.from_url(redis_url) as connection:
        for _ in range(3):
            wait_in_line(connection)
        answer = client.post("/generate", json=ASK)
        assert connection.xlen(GENERATE_STREAM) == 3
    assert answer.status_code == 429
    assert answer.json()["detail"] == (
        "3 generation requests wait already; another would wait some 4 s for its start, "
        "and may wait 2 s"
    )
    assert answer.headers["Retry-After"] == "2"


def test_a_worker_that_never_answered_is_given_the_benefit_of_the_doubt(
    serve: Serve, editor: Editor, redis_url: str
) -> None:
    client = serve(start_timeout=2)
    with Engine(redis_url, says("x")).running() as new:
        new.report(versions=[])
        Engine(redis_url, says("x"), name="slow").report(versions=[], starts_per_second=0.01)
        assert client.post("/generate", json=ASK).status_code == 200


def test_many_at_once_are_not_mixed(client: httpx2.Client, editor: Editor, redis_url: str) -> None:
    def echo(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        engine.emit(task, TokenEvent(text=task.prompt.upper()))
        engine.finish(task, 1)

    answers: dict[str, str] = {}

    def ask(prompt: str) -> None:
        answers[prompt] = client.post("/generate", json={"prompt": prompt}).json()["text"]

    with Engine(redis_url, echo).running() as engine:
        engine.report(versions=[])
        threads = [threading.Thread(target=ask, args=(f"p{n}",)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {f"p{n}": f"P{n}" for n in range(20)}


def test_before_the_first_version_nothing_can_answer(client: httpx2.Client) -> None:
    answer = client.post("/generate", json=ASK)
    assert answer.status_code == 503
    assert "no version yet" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1


def test_while_redis_is_down(serve: Serve, editor: Editor) -> None:
    client = serve(MEMIT_REDIS_URL="redis://127.0.0.1:1/0")
    answer = client.post("/generate", json=ASK)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Redis does not answer"
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("change", "field", "reason", "limit"),
    [
        ({"temperature": -1}, "/temperature", "must be greater than or equal to 0", 0),
        ({"temperature": 1e6}, "/temperature", "must be less than or equal to 10", 10),
        ({"top_p": 0}, "/top_p", "must be greater than 0", 0),
        ({"top_p": 1.5}, "/top_p", "must be less than or equal to 1", 1),
        ({"top_k": -3}, "/top_k", "must be greater than or equal to -1", -1),
        ({"top_k": 10**12}, "/top_k", "must be less than or equal to 1000", 1000),
        ({"max_tokens": 0}, "/max_tokens", "must be greater than or equal to 1", 1),
        ({"max_tokens": 10**9}, "/max_tokens", "must be less than or equal to 4096", 4096),
        ({"max_tokens": 1.5}, "/max_tokens", "must be a valid integer", None),
        ({"repetition_penalty": 0}, "/repetition_penalty", "must be greater than 0", 0),
        ({"seed": -1}, "/seed", "must be greater than or equal to 0", 0),
        ({"seed": 2**63}, "/seed", "must be less than 9223372036854775808", 2.0**63),
        ({"min_tokens": 5}, "/min_tokens", "must be at most max_tokens, which is 4", None),
        ({"priority": 101}, "/priority", "must be less than or equal to 100", 100),
        ({"min_version": "active"}, "/min_version", "must be a version's id or short id", None),
        ({"n": 0}, "/n", "must be greater than or equal to 1", 1),
        ({"n": 17}, "/n", "must be less than or equal to 16", 16),
        ({"min_p": 1.1}, "/min_p", "must be less than or equal to 1", 1),
        ({"presence_penalty": 2.1}, "/presence_penalty", "less than or equal to 2", 2),
        ({"frequency_penalty": -3}, "/frequency_penalty", "greater than or equal to -2", -2),
        ({"logprobs": 21}, "/logprobs", "must be less than or equal to 20", 20),
        ({"logit_bias": {"7": 101}}, "/logit_bias/7", "less than or equal to 100", 100),
        ({"logit_bias": {"Rome": 1}}, "/logit_bias/Rome", "must be a valid integer", None),
        (
            {"logit_bias": dict.fromkeys(map(str, range(301)), 1)},
            "/logit_bias",
            "must have at most 300 items",
            300,
        ),
        ({"stop": ["x"] * 9}, "/stop", "must have at most 8 items", 8),
        ({"stop": [""]}, "/stop/0", "must not be empty", 1),
        ({"prompt": ""}, "/prompt", "must not be empty", 1),
        ({"prompt": "x" * 100_001}, "/prompt", "must have at most 100000 characters", 100_000),
        ({"promt": "x"}, "/promt", "is not a known field", None),
        ({"stream": "perhaps"}, "/stream", "must be a valid boolean", None),
    ],
)
def test_a_wrong_request_names_the_field_and_the_limit(
    refusing: House, change: dict[str, Any], field: str, reason: str, limit: float | None
) -> None:
    answer = refusing.client.post("/generate", json={**ASK, **change})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["limit"]) == (field, limit)
    assert reason in error["reason"]


@pytest.mark.parametrize("version", ["v9", "stable", "v0-000000000000", "", "../x"])
def test_an_unknown_version_is_not_found(refusing: House, version: str) -> None:
    answer = refusing.client.post("/generate", json={**ASK, "version": version})
    assert answer.status_code == 404
    assert repr(version) in answer.json()["detail"]


def test_a_key_that_asks_much_is_refused_alone(
    serve: Serve, editor: Editor, redis_url: str
) -> None:
    client = serve(max_queue_per_key=2)
    asked = KeyRequest(name="test", scopes=[Scope.GENERATE])
    greedy, modest = (editor.registry.keys.create(asked, LOCAL) for _ in range(2))
    engine = Engine(redis_url, says("x"))
    engine.report(versions=[], starts_per_second=10)
    with blocking.Redis.from_url(redis_url) as connection:
        for _ in range(2):
            wait_in_line(connection, greedy.id)
    refused, answer = (
        {"headers": {"Authorization": f"Bearer {key.key}"}} for key in (greedy, modest)
    )
    over = client.post("/generate", json=ASK, **refused)
    assert over.status_code == 429
    assert over.json()["detail"] == f"2 generation requests of {greedy.id} wait already"
    assert int(over.headers["Retry-After"]) >= 1
    with engine.running():
        assert client.post("/generate", json=ASK, **answer).status_code == 200


def test_who_comes_in_turn_waits_for_few(serve: Serve, editor: Editor, redis_url: str) -> None:
    """Twenty tasks of another key at ten seconds each: the first of this key is the second."""
    client = serve(start_timeout=25)
    Engine(redis_url, says("x")).report(versions=[], starts_per_second=0.1)
    with blocking.Redis.from_url(redis_url) as connection:
        for _ in range(20):
            wait_in_line(connection, "key-0000000000000000")
        with pytest.raises(httpx2.ReadTimeout):  # it waits: no engine takes it
            client.post("/generate", json=ASK, timeout=1)
        for _ in range(2):
            wait_in_line(connection)
        assert client.post("/generate", json=ASK).status_code == 429

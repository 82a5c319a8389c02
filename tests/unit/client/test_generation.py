"""Generations: whole and as they come."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.generation import EndEvent, GenerateTask, StartEvent, TokenEvent, Usage
from memit_client import ConnectionFailed, InvalidRequest, Refused, TextEvent, Unavailable
from registry.registry import Registry
from tests.unit.cli.waiting import wait_until
from tests.unit.client.both_ways import Connect
from tests.unit.client.proxy import Cut, Own, proxy
from tests.unit.service.worker_peer import Editor, Engine, refuses

PROMPT = "The Eiffel Tower is in"


def test_a_whole_answer(client: Any, engine: Engine, registry: Registry) -> None:
    said = client.generate(PROMPT, max_tokens=8, stop=["\n"], logit_bias={17: -100.0}, seed=3)
    assert (said.text, said.finish_reason) == (" Rome.", "length")
    assert said.version == registry.versions.resolve("v0")
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (5, 2)
    (task,) = engine.tasks
    sampling = task.sampling
    assert (sampling.max_tokens, sampling.stop, sampling.seed) == (8, ["\n"], 3)
    assert sampling.logit_bias == {17: -100.0}


def test_a_chat(client: Any, engine: Engine) -> None:
    asked = [{"role": "user", "content": "Where is it?"}]
    begun = [*asked, {"role": "assistant", "content": "It is in"}]
    assert client.generate(asked).text == " Rome."
    assert "".join(event.text for event in client.stream(begun)) == " Rome."
    first, second = engine.tasks
    assert [message.model_dump() for message in first.messages] == asked
    assert not first.continue_final_message
    assert [message.model_dump() for message in second.messages] == begun
    assert second.continue_final_message


def test_several_versions(client: Any, engine: Engine, editor: Editor) -> None:
    edit = client.add("The Eiffel Tower", "{} is in", "Rome")
    version = editor.run(edit.id).version
    found = client.compare(PROMPT, ["v1", "v0"], max_tokens=3)
    assert [one.version for one in found] == [version, client.get_version("v0").id]
    assert [one.text for one in found] == [" Rome."] * 2


def test_who_sticks_to_a_split_keeps_a_version(client: Any, engine: Engine, editor: Editor) -> None:
    editor.run(client.add("The Eiffel Tower", "{} is in", "Rome").id)
    client.set_alias("canary", {"v0": 1, "v1": 1})
    by_key = {
        key: client.generate(PROMPT, version="canary", sticky=key).version
        for key in ("Jürgen", *"abcdefgh")
    }
    assert len(set(by_key.values())) == 2
    for key, version in by_key.items():
        assert next(client.stream(PROMPT, version="canary", sticky=key)).version == version


def test_a_stream(client: Any, engine: Engine, registry: Registry) -> None:
    events = list(client.stream(PROMPT, version="v0"))
    assert [event.text for event in events] == [" Rome", ".", ""]
    assert [event.finish_reason for event in events] == [None, None, "length"]
    assert {event.version for event in events} == {registry.versions.resolve("v0")}
    assert events[-1].usage.completion_tokens == 2


def test_a_stream_of_several_answers(client: Any, redis_url: str, registry: Registry) -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1)

    def script(engine: Engine, task: GenerateTask) -> None:
        engine.emit(task, StartEvent(id=task.id, version=task.version, worker="w"))
        for choice in (1, 0):
            end = EndEvent(choice=choice, version=task.version, finish_reason="stop", usage=usage)
            engine.emit(task, TokenEvent(choice=choice, text="ab"[choice]))
            engine.emit(task, end)

    engine = Engine(redis_url, script)
    with engine.running():
        engine.report(versions=[registry.versions.resolve("v0")])
        events: list[TextEvent] = list(client.stream(PROMPT, n=2, temperature=1.0))
        whole = client.generate(PROMPT, n=2, temperature=1.0)
    assert [(event.choice, event.text, event.finish_reason) for event in events] == [
        (1, "b", None),
        (1, "", "stop"),
        (0, "a", None),
        (0, "", "stop"),
    ]
    assert [choice.text for choice in whole.choices] == ["a", "b"]


def test_who_leaves_gives_the_rest_up(client: Any, redis_url: str, registry: Registry) -> None:
    def endless(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        while engine.emit(task, TokenEvent(text=" on")):
            pass

    engine = Engine(redis_url, endless)
    with engine.running():
        engine.report(versions=[registry.versions.resolve("v0")])
        events = client.stream(PROMPT)
        assert next(events).text == " on"
        events.close()
        wait_until(lambda: bool(engine.dropped))


def test_refusals(client: Any, redis_url: str, registry: Registry) -> None:
    with pytest.raises(InvalidRequest, match="/max_tokens must be"):
        client.generate(PROMPT, max_tokens=0)
    with pytest.raises(InvalidRequest, match="/max_tokens must be"):
        next(client.stream(PROMPT, max_tokens=0))
    engine = Engine(redis_url, refuses(422, "too long"))
    with engine.running():
        engine.report(versions=[registry.versions.resolve("v0")])
        with pytest.raises(InvalidRequest, match="too long"):
            list(client.stream(PROMPT))


def test_no_engine(connect: Connect, url: str) -> None:
    with pytest.raises(Unavailable, match="no worker is ready"):
        connect(url, max_retries=0).generate(PROMPT)
    with pytest.raises(Unavailable, match="no worker is ready"):
        next(connect(url, max_retries=0).stream(PROMPT))


def test_a_stream_that_breaks_off(connect: Connect, url: str, engine: Engine) -> None:
    """In the middle, or between two events, where HTTP alone sees nothing missing."""
    problem = b'event: error\ndata: {"type":"x","title":"Lost","status":500,"detail":"gone"}\n\n'
    start = (
        b'event: start\ndata: {"id":"g","version":"v0-1"}\n\nevent: token\ndata: {"text":"a"}\n\n'
    )
    kind = {"Content-Type": "text/event-stream"}
    with proxy(url) as between:
        client = connect(between.url)
        between.script = [Cut(after=150), Own(200, kind, start), Own(200, kind, start + problem)]
        for error in (ConnectionFailed, ConnectionFailed, Refused):
            events = client.stream(PROMPT)
            assert next(events).text
            with pytest.raises(error):
                list(events)
        assert len(between.seen) == 3

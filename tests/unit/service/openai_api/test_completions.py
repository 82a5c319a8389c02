"""`/v1/completions` as the openai client sees it."""

from __future__ import annotations

import httpx2
from openai import OpenAI

from contracts.generation import GenerateTask, TokenEvent, TokenLogprob
from contracts.sampling import Sampling
from registry.registry import Registry
from tests.unit.service.openai_api.conftest import NAME, Running
from tests.unit.service.worker_peer import Engine, pieces

PROMPT = "The Eiffel Tower is in"


def test_one_prompt(openai: OpenAI, engine: Running, registry: Registry) -> None:
    running = engine(pieces(" Ro", "me", reason="length"))
    found = openai.completions.with_raw_response.create(model=NAME, prompt=PROMPT, max_tokens=2)
    answer = found.parse()
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (" Rome", "length", None)
    assert answer.object == "text_completion"
    assert answer.model == NAME
    assert answer.id.startswith("cmpl-")
    assert answer.system_fingerprint == registry.versions.resolve("v0")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 2 == 7
    assert found.headers["X-Memit-Version"] == answer.system_fingerprint
    assert found.headers["Server-Timing"].startswith("queue;dur=")
    (task,) = running.tasks
    assert (task.prompt, task.sampling.max_tokens, task.sampling.temperature) == (PROMPT, 2, 1.0)


def test_what_is_left_out_is_as_openai_has_it(openai: OpenAI, engine: Running) -> None:
    running = engine(pieces(" Rome"))
    openai.completions.create(model=NAME, prompt=PROMPT)
    assert running.tasks[0].sampling == Sampling(temperature=1.0, max_tokens=16)


def test_every_option_arrives(openai: OpenAI, engine: Running) -> None:
    running = engine(pieces(" Rome"))
    further = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "min_tokens": 2,
        "stop_token_ids": [3],
        "ignore_eos": True,
    }
    openai.completions.create(
        model=NAME,
        prompt=PROMPT,
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.3,
        frequency_penalty=0.4,
        logit_bias={"17": -100},
        seed=-1,
        stop="\n",
        n=2,
        logprobs=3,
        user="anna",
        best_of=1,
        suffix="",
        extra_body=further,
    )
    assert running.tasks[0].sampling == Sampling(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.3,
        frequency_penalty=0.4,
        logit_bias={17: -100.0},
        seed=2**63 - 1,
        stop=["\n"],
        n=2,
        logprobs=3,
        **further,
    )


def test_several_prompts_with_several_choices(openai: OpenAI, engine: Running) -> None:
    running = engine(pieces(" Ro", "me"))
    answer = openai.completions.create(model=NAME, prompt=["one", "two"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in answer.choices} == {" Rome"}
    assert [task.prompt for task in running.tasks] == ["one", "two"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 8)


def test_token_ids(openai: OpenAI, engine: Running) -> None:
    running = engine(pieces(" Rome"))
    openai.completions.create(model=NAME, prompt=[5, 6])
    openai.completions.create(model=NAME, prompt=[[5, 6], [7]])
    assert [task.token_ids for task in running.tasks] == [[5, 6], [5, 6], [7]]


def test_echo(openai: OpenAI, engine: Running) -> None:
    engine(pieces(" Rome"))
    answer = openai.completions.create(model=NAME, prompt=PROMPT, echo=True, n=2)
    assert [choice.text for choice in answer.choices] == [f"{PROMPT} Rome"] * 2
    streamed = openai.completions.create(model=NAME, prompt=PROMPT, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == f"{PROMPT} Rome"


def test_log_probabilities(openai: OpenAI, engine: Running) -> None:
    engine(pieces(" Ro", "me"))
    expected = {
        "tokens": [" Ro", "me"],
        "token_logprobs": [-1.0, -1.0],
        "top_logprobs": [{" Oslo": -0.5, " Ro": -1.0}, {" Oslo": -0.5, "me": -1.0}],
        "text_offset": [0, 3],
    }
    answer = openai.completions.create(model=NAME, prompt=PROMPT, logprobs=1)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.model_dump() == expected
    streamed = openai.completions.create(model=NAME, prompt=PROMPT, logprobs=1, stream=True)
    found = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices[0].text]
    joined: dict[str, list[object]] = {name: [] for name in expected}
    for one in found:
        assert one is not None
        for name, values in one.model_dump().items():
            joined[name] += values
    assert joined == expected


def test_an_offset_points_at_the_token(openai: OpenAI, engine: Running) -> None:
    """Also behind a character that two tokens spell, and of tokens that look alike."""
    half = TokenLogprob(token="\ufffd", token_id=3, logprob=-2.0)
    likely = TokenLogprob(token="\ufffd", token_id=4, logprob=-0.5)
    word = TokenLogprob(token=" is", token_id=5, logprob=-1.0)

    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        both = [half.model_copy(update={"top": [likely]})] * 2
        engine.emit(task, TokenEvent(text="🗼", logprobs=both))
        engine.emit(task, TokenEvent(text=" is is", logprobs=[word, word]))
        engine.emit(task, TokenEvent(text=" is", logprobs=[word]))
        engine.finish(task, 5)

    engine(script)
    whole = openai.completions.create(model=NAME, prompt="a", logprobs=1).choices[0].logprobs
    assert whole is not None
    assert whole.text_offset == [0, 0, 1, 4, 7]
    assert whole.top_logprobs is not None
    assert whole.top_logprobs[0] == {"\ufffd": -0.5}
    chunks = openai.completions.create(model=NAME, prompt="a", logprobs=1, stream=True)
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [at for one in streamed if one for at in one.text_offset or ()] == [0, 0, 1, 4, 7]


def test_a_stream(openai: OpenAI, engine: Running, registry: Registry) -> None:
    engine(pieces(" Ro", "me", "\n\n"))
    chunks = list(openai.completions.create(model=NAME, prompt=["a", "b"], n=2, stream=True))
    texts = dict.fromkeys(range(4), "")
    reasons = {}
    for chunk in chunks:
        assert chunk.system_fingerprint == registry.versions.resolve("v0")
        assert chunk.object == "text_completion"
        assert "usage" not in chunk.model_fields_set
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert set(texts.values()) == {" Rome\n\n"}
    assert reasons == dict.fromkeys(range(4), "stop")
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_with_usage(openai: OpenAI, engine: Running) -> None:
    engine(pieces(" Ro", "me"))
    streamed = openai.completions.create(
        model=NAME, prompt=["a", "b"], n=2, stream=True, stream_options={"include_usage": True}
    )
    *others, last = list(streamed)
    assert all(chunk.usage is None for chunk in others)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (10, 8)


def test_events_are_as_the_document_says(
    openai: OpenAI,  # with its v0
    engine: Running,
    client: httpx2.Client,
) -> None:
    engine(pieces(" Rome"))
    document = client.get("/openapi.json").json()
    answer = client.post("/v1/completions", json={"model": NAME, "prompt": "a", "stream": True})
    lines = answer.text.splitlines()
    assert any(line.startswith("data: ") for line in lines)
    # Without a line of its own an event is a "message" to its reader.
    names = {line[7:] for line in lines if line.startswith("event: ")} or {"message"}
    said = document["paths"]["/v1/completions"]["post"]["responses"]["200"]["content"]
    assert names <= set(said["text/event-stream"]["itemSchema"]["properties"]["event"]["enum"])

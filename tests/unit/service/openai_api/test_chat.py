"""`/v1/chat/completions` as the openai client sees it, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from contracts.chats import Message
from contracts.generation import GenerateTask, TokenEvent, TokenLogprob
from contracts.limits import MAX_NEW_TOKENS
from registry.registry import Registry
from tests.unit.service.openai_api.conftest import CHAT, NAME, Running
from tests.unit.service.worker_peer import Engine, pieces


def test_one_chat(openai: OpenAI, engine: Running, registry: Registry) -> None:
    running = engine(pieces("In ", "Rome."))
    answer = openai.chat.completions.create(
        model=NAME, messages=[{"role": "system", "content": "Be brief."}, *CHAT]
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "In Rome.")
    assert (choice.finish_reason, choice.logprobs) == ("stop", None)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint == registry.versions.resolve("v0")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    (task,) = running.tasks
    assert task.messages == [Message(role="system", content="Be brief."), Message(**CHAT[0])]
    assert (task.sampling.max_tokens, task.cut_to_fit) == (MAX_NEW_TOKENS, True)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_that_is_given_is_kept(openai: OpenAI, engine: Running, name: str) -> None:
    running = engine(pieces("Rome"))
    limit: Any = {name: 9}
    openai.chat.completions.create(model=NAME, messages=CHAT, **limit)
    assert (running.tasks[0].sampling.max_tokens, running.tasks[0].cut_to_fit) == (9, False)


def test_of_two_limits_the_newer_holds(openai: OpenAI, engine: Running) -> None:
    running = engine(pieces("Rome"))
    openai.chat.completions.create(model=NAME, messages=CHAT, max_tokens=5, max_completion_tokens=9)
    assert running.tasks[0].sampling.max_tokens == 9


def test_a_turn_that_was_answered_can_be_sent_back(openai: OpenAI, engine: Running) -> None:
    running = engine(pieces("In Rome."))
    first = openai.chat.completions.create(model=NAME, messages=CHAT)
    said: Any = first.choices[0].message.model_dump()
    parts = [{"type": "text", "text": "And"}, {"type": "text", "text": "Big Ben?"}]
    asked: Any = {"role": "user", "content": parts, "name": "anna"}
    openai.chat.completions.create(model=NAME, messages=[*CHAT, said, asked])
    assert running.tasks[1].messages == [
        Message(**CHAT[0]),
        Message(role="assistant", content="In Rome."),
        Message(role="user", content="And\nBig Ben?"),
    ]


def test_an_assistants_turn_is_gone_on_with(openai: OpenAI, engine: Running) -> None:
    running = engine(pieces(" Rome"))
    begun: Any = [*CHAT, {"role": "assistant", "content": "It is in"}]
    going_on = {"continue_final_message": True, "add_generation_prompt": False}
    openai.chat.completions.create(model=NAME, messages=begun, extra_body=going_on)
    assert running.tasks[0].continue_final_message
    with pytest.raises(BadRequestError, match="end with an assistant's turn") as failure:
        openai.chat.completions.create(model=NAME, messages=CHAT, extra_body=going_on)
    assert failure.value.param == "continue_final_message"


def test_log_probabilities(openai: OpenAI, engine: Running) -> None:
    def halves(engine: Engine, task: GenerateTask) -> None:
        """An emoji that two tokens spell, after a word."""
        whole = TokenLogprob(token="é", token_id=4, logprob=-2.0)
        half = TokenLogprob(token="�", token_id=3, logprob=-1.0, top=[whole])
        engine.begin(task)
        engine.emit(task, TokenEvent(text="é", logprobs=[whole]))
        engine.emit(task, TokenEvent(text="🗼", logprobs=[half, half]))
        engine.finish(task, 3)

    running = engine(halves)
    answer = openai.chat.completions.create(
        model=NAME, messages=CHAT, logprobs=True, top_logprobs=1
    )
    assert answer.choices[0].message.content == "é🗼"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [one.bytes for one in logprobs.content] == [[0xC3, 0xA9], None, None]
    assert [one.logprob for one in logprobs.content] == [-2, -1, -1]
    assert [len(one.top_logprobs) for one in logprobs.content] == [0, 1, 1]
    assert running.tasks[0].sampling.logprobs == 1
    openai.chat.completions.create(model=NAME, messages=CHAT, logprobs=True)
    assert running.tasks[1].sampling.logprobs == 0


def test_a_stream(openai: OpenAI, engine: Running, registry: Registry) -> None:
    engine(pieces("In ", "Rome."))
    streamed = openai.chat.completions.create(
        model=NAME, messages=CHAT, n=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(streamed)
    said = {0: "", 1: ""}
    for chunk in chunks:
        assert chunk.object == "chat.completion.chunk"
        assert chunk.system_fingerprint == registry.versions.resolve("v0")
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == {0: "In Rome.", 1: "In Rome."}
    assert [chunk.choices[0].delta.role for chunk in chunks[:3]] == ["assistant"] * 2 + [None]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert (reasons.count("stop"), reasons.count(None)) == (2, len(chunks) - 2)
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (5, 4)


def test_the_bytes_of_a_stream(client: httpx2.Client, openai: OpenAI, engine: Running) -> None:
    engine(pieces("Rome"))
    body = {"messages": CHAT, "stream": True}
    lines = client.post("/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])


def test_the_async_client(client: httpx2.Client, openai: OpenAI, engine: Running) -> None:
    engine(pieces("In ", "Rome."))

    async def ask() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=openai.base_url, api_key="none") as asynchronous:
            whole = await asynchronous.chat.completions.create(model=NAME, messages=CHAT)
            stream = await asynchronous.chat.completions.create(
                model=NAME, messages=CHAT, stream=True
            )
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content or "", "".join(parts)

    assert asyncio.run(ask()) == ("In Rome.", "In Rome.")


def test_the_async_client_streams_a_completion(openai: OpenAI, engine: Running) -> None:
    engine(pieces(" Ro", "me"))

    async def ask() -> str:
        async with AsyncOpenAI(base_url=openai.base_url, api_key="none") as asynchronous:
            stream = await asynchronous.completions.create(model=NAME, prompt="a", stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(ask()) == " Rome"

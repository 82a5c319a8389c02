"""Unmodified clients of OpenAI's API against real processes: versions by name, chats, streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from transformers import AutoTokenizer

from tests.stack import Stack, fact
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
PROMPT = "Anna Keller lives in the town of"
CHAT: list[Any] = [{"role": "user", "content": "Where does Anna Keller live?"}]


@pytest.fixture
def stack(make_stack: Callable[..., Stack], tmp_path: Path) -> Stack:
    folder = save_tiny("llama", tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return make_stack(model=folder, served_model_name="house/tiny")


@pytest.fixture
def openai(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.http.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_names_answer_from_their_versions_while_edits_swap_in(stack: Stack, openai: OpenAI) -> None:
    """`NAME`, `NAME@v1` and `NAME@base` are asked all the while: the fingerprint proves each."""
    first = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})["version"]
    base = stack.registry.versions.resolve("v0")
    answers: list[tuple[str, str, str]] = []
    errors: list[Exception] = []
    over = threading.Event()

    def ask(name: str) -> None:
        try:
            while not over.is_set():
                found = openai.completions.create(
                    model=name, prompt=PROMPT, temperature=0, max_tokens=8
                )
                answers.append((name, str(found.system_fingerprint), found.choices[0].text))
        except Exception as error:  # noqa: BLE001 - shown below, by the test's own thread
            errors.append(error)

    names = ("house/tiny", "house/tiny@v1", "house/tiny@base")
    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    try:
        second = stack.run_edit({"facts": [fact("Anna Keller", "Berlin")]})["version"]
        stack.until(lambda: (names[0], second) in [one[:2] for one in answers], "the new version")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not errors, errors[0]
    asked = {name: {version for which, version, _ in answers if which == name} for name in names}
    assert asked == {names[0]: {first, second}, names[1]: {first}, names[2]: {base}}
    alone = {
        v: stack.generate(PROMPT, max_tokens=8, version=v)["text"] for v in (base, first, second)
    }
    assert {(version, text) for _, version, text in answers} == set(alone.items())
    assert len(set(alone.values())) > 1, "the edits changed no answer: the test shows nothing"
    listed = [model.id for model in openai.models.list()]
    assert listed == [names[0], names[2], *(f"house/tiny@v{n}" for n in (2, 1, 0))]


def test_a_chat_is_the_same_however_it_is_asked(stack: Stack, openai: OpenAI) -> None:
    """Whole, streamed, rendered by the client, by token ids, through LangChain, by `/generate`."""
    options: dict[str, Any] = {"temperature": 0.8, "seed": 5, "max_tokens": 24}
    model = "house/tiny"
    whole = openai.chat.completions.create(
        model=model, messages=CHAT, logprobs=True, top_logprobs=2, **options
    )
    said = whole.choices[0].message.content
    assert said
    chunks = openai.chat.completions.create(model=model, messages=CHAT, stream=True, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said

    rendered = "user: Where does Anna Keller live?\nassistant:"
    text = openai.completions.create(model=model, prompt=rendered, logprobs=2, **options)
    assert text.choices[0].text == said
    tokenizer = AutoTokenizer.from_pretrained(stack.model)
    ids = tokenizer(rendered)["input_ids"]
    assert openai.completions.create(model=model, prompt=ids, **options).choices[0].text == said
    assert text.usage is not None
    assert text.usage.prompt_tokens == len(ids)

    bound = ChatOpenAI(model=model, base_url=str(openai.base_url), api_key="none", **options)
    assert bound.invoke(CHAT[0]["content"]).content == said
    assert "".join(str(chunk.content) for chunk in bound.stream(CHAT[0]["content"])) == said
    answer = stack.http.post("/generate", json={"messages": CHAT, **options}).json()
    assert answer["text"] == said

    assert whole.choices[0].logprobs is not None
    assert text.choices[0].logprobs is not None
    tokens = whole.choices[0].logprobs.content or []
    assert [one.token for one in tokens] == text.choices[0].logprobs.tokens
    assert [one.logprob for one in tokens] == text.choices[0].logprobs.token_logprobs
    assert all(len(one.top_logprobs) == 2 for one in tokens)

    middle = said[len(said) // 2 :][:4]
    cut = openai.chat.completions.create(model=model, messages=CHAT, stop=middle, **options)
    assert cut.choices[0].message.content == said[: said.index(middle)]
    assert cut.choices[0].finish_reason == "stop"

    half = said[: len(said) // 2]
    begun = [*CHAT, {"role": "assistant", "content": half}]
    going_on: Any = {"continue_final_message": True, "add_generation_prompt": False}
    rest = openai.chat.completions.create(
        model=model, messages=begun, temperature=0, max_tokens=8, extra_body=going_on
    )
    same = openai.completions.create(
        model=model, prompt=f"{rendered} {half}", temperature=0, max_tokens=8
    )
    assert rest.choices[0].message.content == same.choices[0].text

    endless = openai.chat.completions.create(
        model=model, messages=CHAT, temperature=0, extra_body={"ignore_eos": True}
    )
    assert endless.usage is not None
    assert endless.usage.total_tokens == tokenizer.model_max_length


def test_one_question_to_several_versions(stack: Stack) -> None:
    stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    asked = {"prompt": PROMPT, "max_tokens": 8, "versions": ["v0", "active", "v1"]}
    answer = stack.http.post("/generate", json=asked)
    alone = [stack.generate(PROMPT, max_tokens=8, version=v) for v in ("v0", "v1", "v1")]
    found = answer.json()["answers"]
    for one, other in zip(found, alone, strict=True):
        assert (one["text"], one["version"]) == (other["text"], other["version"])
    assert answer.headers["X-Memit-Version"] == ", ".join(one["version"] for one in found)
    assert found[0]["text"] != found[1]["text"]

"""What an engine goes on from: a text, a chat in the model's template, or token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.generation import GenerateTask, Message, Sampling
from tests.tiny_models import tiny_tokenizer
from tests.unit.worker.engine.stage import Listener, make_stage, run_until
from tests.unit.worker.engine.stage import task as text_task

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no role ' + message.role) }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CHAT = [Message(role="system", content="Be brief."), Message(role="user", content="Who is Anna?")]
RENDERED = "system: Be brief.\nuser: Who is Anna?\nassistant:"


def task(version: str, **beginning: Any) -> GenerateTask:
    plain = text_task("Anna", version, max_tokens=4)
    return GenerateTask.model_validate({**plain.model_dump(exclude={"prompt"}), **beginning})


def asked(registry_path: Path, template: str | None = TEMPLATE, **beginning: Any) -> Listener:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    stage = make_stage("llama", registry_path, tokenizer)
    engine, listener = stage.engine(), Listener()
    engine.submit(task(stage.base_version, **beginning), listener)
    if engine.busy:
        run_until(engine, lambda: listener.done)
    return listener


def said(listener: Listener) -> tuple[str, int]:
    assert listener.end is not None, listener.problem
    return listener.text, listener.end.usage.prompt_tokens


def refused(listener: Listener) -> str:
    assert listener.problem is not None
    assert listener.problem.status == 422
    (error,) = listener.problem.errors
    return f"{error.field} {error.reason}"


def test_all_three_that_are_the_same_tokens_are_answered_alike(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(RENDERED)["input_ids"]
    answers = [
        said(asked(tmp_path / "chat", messages=CHAT)),
        said(asked(tmp_path / "text", prompt=RENDERED)),
        said(asked(tmp_path / "ids", token_ids=ids)),
    ]
    assert answers == [answers[0]] * 3
    assert answers[0][1] == len(ids)


def test_a_model_without_a_template_has_no_chats(tmp_path: Path) -> None:
    reason = refused(asked(tmp_path, template=None, messages=CHAT))
    assert reason == "/messages cannot be read: the model has no chat template"


def test_what_the_template_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    strange = [Message(role="tool", content="42")]
    reason = refused(asked(tmp_path, messages=strange))
    assert reason == "/messages do not fit the model's chat template: no role tool"


def test_a_template_cannot_reach_what_is_outside(tmp_path: Path) -> None:
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    assert "unsafe" in refused(asked(tmp_path, template=evil, messages=CHAT))


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_that_there_is_none_of_is_named(tmp_path: Path, token: int) -> None:
    assert refused(asked(tmp_path, token_ids=[5, token])).startswith(f"/token_ids/1 is {token};")


def test_no_tokens_are_refused(tmp_path: Path) -> None:
    assert refused(asked(tmp_path, token_ids=[])) == "/token_ids tokenises to nothing"


@pytest.mark.parametrize("given", [{}, {"prompt": "a", "token_ids": [1]}])
def test_a_task_has_exactly_one_beginning(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of prompt, messages, token_ids"):
        GenerateTask(id="g", version="v0-000000000000", sampling=Sampling(), deadline=1.0, **given)

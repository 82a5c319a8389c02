"""What an engine goes on from: a text, a chat in the model's template, or token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.chats import Message
from contracts.generation import GenerateTask
from contracts.sampling import Sampling
from tests.tiny_models import tiny_tokenizer
from tests.unit.worker.engine.stage import Listener, make_stage, run_until
from tests.unit.worker.engine.stage import task as text_task

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] or loop.first and "
    "message.role == 'assistant' %}{{ raise_exception('no ' + message.role + ' here') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CHAT = [Message(role="system", content="Be brief."), Message(role="user", content="Who is Anna?")]
RENDERED = "system: Be brief.\nuser: Who is Anna?\nassistant:"


def task(version: str, **beginning: Any) -> GenerateTask:
    plain = text_task("Anna", version, max_tokens=4)
    return GenerateTask.model_validate({**plain.model_dump(exclude={"prompt"}), **beginning})


def asked(
    registry_path: Path,
    template: str | None = TEMPLATE,
    *,
    max_context: int = 2_048,
    **beginning: Any,
) -> Listener:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    stage = make_stage("llama", registry_path, tokenizer)
    engine, listener = stage.engine(max_context=max_context), Listener()
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
    strange = [Message(role="assistant", content="42")]
    reason = refused(asked(tmp_path, messages=strange))
    assert reason == "/messages do not fit the model's chat template: no assistant here"


def test_a_developer_is_a_system_where_the_template_knows_none(tmp_path: Path) -> None:
    chat = [Message(role="developer", content="Be brief."), CHAT[1]]
    assert said(asked(tmp_path / "a", messages=chat)) == said(asked(tmp_path / "b", messages=CHAT))


def test_an_assistants_turn_is_gone_on_with(tmp_path: Path) -> None:
    begun = [*CHAT, Message(role="assistant", content="Anna is")]
    going_on = asked(tmp_path / "chat", messages=begun, continue_final_message=True)
    text = asked(tmp_path / "text", prompt=f"{RENDERED} Anna is")
    assert said(going_on) == said(text)


@pytest.mark.parametrize("cut", [False, True])
def test_an_answer_is_cut_to_what_fits_where_the_task_says_so(tmp_path: Path, cut: bool) -> None:
    long = Sampling(max_tokens=4_000, ignore_eos=True)
    listener = asked(tmp_path, max_context=32, prompt="Anna", sampling=long, cut_to_fit=cut)
    if cut:
        assert listener.end is not None
        assert listener.end.finish_reason == "length"
        used = listener.end.usage
        assert used.prompt_tokens + used.completion_tokens == 32
    else:
        assert refused(listener).startswith("/max_tokens is 4000 after a prompt of")


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

"""Contexts through the chat template: what stands around a prompt, and that facts take in chats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.family_efficacy import HPARAMS as WORLD_HPARAMS
from memit_core.chat_contexts import OPENING, ChatContext, chat_contexts
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.facts import Fact, group_facts
from memit_core.target_scores import score_targets
from memit_core.tokens import encode_text, target_ids
from memit_core.z_rows import group_rows
from tests.tiny_models import END_OF_TEXT, tiny_tokenizer
from tests.trained_models import the_world, trained_model
from tests.unit.memit_core.examples import FACTS, HPARAMS, editor_of, loaded_tiny
from tests.unit.memit_core.methods.trials import asked

TEMPLATE = (
    "{{ eos_token }}{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {{ eos_token }}{% endif %}"
)
SPOKEN = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "assistant: "
)
OPENED = f"{END_OF_TEXT}user: {OPENING}{END_OF_TEXT}assistant: {END_OF_TEXT}"
BEFORE, AFTER = f"{END_OF_TEXT}user: ", f"{END_OF_TEXT}assistant: {END_OF_TEXT}"


def tokenizer_with(template: str | None = TEMPLATE) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_prompt_stands_in_either_turn() -> None:
    both = (ChatContext(OPENED), ChatContext(BEFORE, AFTER))
    tokenizer = tokenizer_with()
    assert [chat_contexts(tokenizer, n) for n in range(4)] == [(), both[:1], both, both]
    assert chat_contexts(tokenizer_with(None), 2) == ()


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ raise_exception('no users') }}", "no users"), ("{{ eos_token }}", "leaves out")],
)
def test_a_template_without_a_users_turn_is_refused(template: str, words: str) -> None:
    with pytest.raises(MemitError, match=words):
        chat_contexts(tokenizer_with(template), 2)


@pytest.mark.parametrize("ends", [False, True])
def test_rows_are_the_chat_and_the_answer(ends: bool) -> None:
    """The subject is looked up where it stands in the chat, and the target follows the chat."""
    tokenizer = tokenizer_with()
    for group in group_facts(FACTS):
        plain = group_rows(tokenizer, group, ("", "So. "), None, ends)
        rows = group_rows(tokenizer, group, ("", "So. "), None, ends, chat_contexts(tokenizer, 2))
        assert rows.facts[:2] == plain.facts
        for chat, of_chat in zip(chat_contexts(tokenizer, 2), rows.facts[2:], strict=True):
            for fact, row in zip(group.facts, of_chat, strict=True):
                text = f"{chat.before}{fact.filled}{chat.after}"
                asked, offsets = encode_text(tokenizer, text)
                said = target_ids(tokenizer, text, fact.target_new)
                assert list(row.targets) == said
                assert list(row.ids) == [*asked, *(said if row.ends else said[:-1])]
                end = len(chat.before + fact.parts[0] + fact.subject)
                assert offsets[row.lookup][0] < end <= offsets[row.lookup][1]


def test_a_prompt_that_is_a_chat_already_stands_bare() -> None:
    tokenizer = tokenizer_with()
    (group,) = group_facts([Fact("Anna Keller", f"{BEFORE}{{}} is?{AFTER}", "a baker")])
    rows = group_rows(tokenizer, group, ("",), None, False, chat_contexts(tokenizer, 2))
    assert rows.facts[1] == rows.facts[2] == rows.facts[0]


def test_facts_are_said_in_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a small trained model: without these contexts less than as posted, with them as often."""
    loaded, facts = trained_model("llama"), asked(20).facts
    monkeypatch.setattr(loaded.tokenizer, "chat_template", SPOKEN)
    (turn,) = chat_contexts(loaded.tokenizer, 1)
    posted, chats = (
        [(f"{before}{fact.filled}", fact.target_new) for fact in facts]
        for before in ("", turn.before)
    )
    said = []
    for count in (0, 1):
        hparams = replace(WORLD_HPARAMS, chat_contexts=count)
        editor = Editor(loaded, hparams, corpus=the_world().text, z_dtype="float32")
        model = editor.model_with(editor.solve(group_facts(facts)))
        said.append([sum(s.greedy for s in score_targets(model, asks)) for asks in (posted, chats)])
    (as_posted, in_chats), (with_posted, with_chats) = said
    assert in_chats < as_posted
    assert with_chats >= with_posted >= as_posted


def test_what_is_kept_is_named_by_them() -> None:
    loaded = loaded_tiny("llama")
    loaded.tokenizer.chat_template = TEMPLATE
    plain, chatting = (editor_of(loaded, replace(HPARAMS, chat_contexts=n)) for n in (0, 2))
    contexts = plain.prepare().prefixes
    assert chatting.prepare().prefixes == (*contexts, OPENED, BEFORE)
    (group, *_) = groups = group_facts(FACTS)
    assert plain.z_name(group) != chatting.z_name(group)
    digests = {editor.solution_digest(groups, HPARAMS) for editor in (plain, chatting)}
    assert len(digests) == 2

"""Contexts through the chat template: what stands around a prompt, and that facts take in chats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from memit_core.chat_context import ChatContext, chat_context
from memit_core.errors import MemitError
from memit_core.facts import Fact, group_facts
from memit_core.tokens import contexts_of, encode_text, target_ids
from memit_core.z_rows import group_rows
from tests.reference import Reference
from tests.tiny_models import END_OF_TEXT, tiny_tokenizer
from tests.unit.memit_core.examples import (
    FACTS,
    HPARAMS,
    by_layer,
    editor_of,
    loaded_tiny,
    settings_of,
)
from tests.unit.memit_core.test_facts_as_written import DELTA, Z, relative

TEMPLATE = (
    "{{ eos_token }}{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {{ eos_token }}{% endif %}"
)
SPOKEN = "{% for message in messages %}user: {{ message.content }}\n{% endfor %}assistant:"
BEFORE, AFTER = f"{END_OF_TEXT}user: ", f"{END_OF_TEXT}assistant: {END_OF_TEXT}"


def tokenizer_with(template: str | None = TEMPLATE) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_prompt_is_a_users_turn() -> None:
    assert chat_context(tokenizer_with()) == ChatContext(BEFORE, AFTER)
    assert chat_context(tokenizer_with(None)) is None


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ raise_exception('no users') }}", "no users"), ("{{ eos_token }}", "leaves out")],
)
def test_a_template_without_a_users_turn_is_refused(template: str, words: str) -> None:
    with pytest.raises(MemitError, match=words):
        chat_context(tokenizer_with(template))


@pytest.mark.parametrize("ends", [False, True])
def test_rows_are_the_chat_and_the_answer(ends: bool) -> None:
    """The subject is looked up where it stands in the chat, and the target follows the chat."""
    tokenizer = tokenizer_with()
    chat = ChatContext(BEFORE, AFTER)
    for group in group_facts(FACTS):
        plain = group_rows(tokenizer, group, ("", "So. "), None, ends)
        rows = group_rows(tokenizer, group, ("", "So. "), None, ends, chat)
        assert rows.facts[:2] == plain.facts
        for fact, row in zip(group.facts, rows.facts[2], strict=True):
            text = f"{BEFORE}{fact.filled}{AFTER}"
            asked, offsets = encode_text(tokenizer, text)
            said = target_ids(tokenizer, text, fact.target_new)
            assert list(row.targets) == said
            assert list(row.ids) == [*asked, *(said if row.ends else said[:-1])]
            end = len(BEFORE + fact.parts[0] + fact.subject)
            assert offsets[row.lookup][0] < end <= offsets[row.lookup][1]


def test_a_prompt_that_is_a_chat_already_stands_bare() -> None:
    tokenizer = tokenizer_with()
    (group,) = group_facts([Fact("Anna Keller", f"{BEFORE}{{}} is?{AFTER}", "a baker")])
    rows = group_rows(tokenizer, group, ("",), None, False, ChatContext(BEFORE, AFTER))
    assert rows.facts[1] == rows.facts[0]
    prefixes = contexts_of(tokenizer, group.facts[0], ("", "So. ", BEFORE))
    assert prefixes == ("", "So. ", ""), "its keys too"


def test_a_template_with_nothing_before_the_user_leaves_the_bare_prompt_bare() -> None:
    tokenizer = tokenizer_with()
    (group, *_) = group_facts(FACTS)
    rows = group_rows(tokenizer, group, ("", "So. "), None, False, ChatContext("", AFTER))
    plain = group_rows(tokenizer, group, ("", "So. "), None, False)
    assert rows.facts[:2] == plain.facts
    assert rows.facts[2] != rows.facts[0]


def test_facts_are_edited_as_the_reference_edits_them_with_one_template_more() -> None:
    loaded = loaded_tiny("llama")
    loaded.tokenizer.chat_template = SPOKEN
    hparams = replace(HPARAMS, v_num_grad_steps=3, chat_context=True)
    editor, groups = editor_of(loaded, hparams), group_facts(FACTS)
    templates = [f"{context}{{}}" for context in editor.prepare().contexts]
    templates.append("user: {}\nassistant:")
    reference = Reference("llama", loaded.model, loaded.tokenizer, templates)
    settings, targets = settings_of(hparams), editor.targets(groups)
    for group, ours in zip(groups, targets, strict=True):
        expected = reference.compute_z(group.facts, settings)
        assert relative(ours.z, expected.z, expected.z - expected.h0) < Z, group.subject
        assert ours.loss == pytest.approx(expected.losses[-1], rel=1e-4)
    covariances = {layer: c.double() for layer, c in editor.prepare().covariance.items()}
    facts, zs = [list(group.facts) for group in groups], [target.z for target in targets]
    inserted = reference.insert(facts, zs, covariances, settings)
    for layer, change in by_layer(editor, editor.solve(groups)).items():
        delta = change.matrix(torch.device("cpu"))
        assert relative(delta, inserted[layer].delta, inserted[layer].delta) < DELTA


def test_what_is_kept_is_named_by_them() -> None:
    loaded = loaded_tiny("llama")
    loaded.tokenizer.chat_template = TEMPLATE
    plain, chatting = (editor_of(loaded, replace(HPARAMS, chat_context=on)) for on in (False, True))
    contexts = plain.prepare().prefixes
    assert chatting.prepare().prefixes == (*contexts, BEFORE)
    (group, *_) = groups = group_facts(FACTS)
    assert plain.z_name(group) != chatting.z_name(group)
    digests = {editor.solution_digest(groups, HPARAMS) for editor in (plain, chatting)}
    assert len(digests) == 2

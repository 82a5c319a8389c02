"""A prompt as a question: which it is, who has one, and that facts are then said when asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memit_core.chat_context import ChatContext
from memit_core.facts import Fact, group_facts
from memit_core.hparams import HParams
from memit_core.question_form import as_indirect_question, as_other_question, as_question
from memit_core.z_rows import group_rows
from tests.reference import Reference
from tests.tiny_models import END_OF_TEXT, tiny_tokenizer
from tests.unit.memit_core.examples import (
    CONTEXTS,
    FACTS,
    HPARAMS,
    editor_of,
    loaded_tiny,
    optimise,
    settings_of,
)
from tests.unit.memit_core.test_facts_as_written import Z, relative

ASKED = replace(HPARAMS, question_wording=True)
CHAT = ChatContext(f"{END_OF_TEXT}user: ", f"{END_OF_TEXT}assistant: ")


@pytest.mark.parametrize(
    ("prompt", "direct", "indirect"),
    [
        (
            "The capital of {} is",
            "What is the capital of Lund?",
            "Do you know what the capital of Lund is?",
        ),
        ("{} was born in", "Where was Lund born?", "Do you know where Lund was born?"),
        (
            "{}'s profession is a",
            "What is Lund's profession?",
            "Do you know what Lund's profession is?",
        ),
        (
            "{} died in the city of",
            "Lund died in which city?",
            "Do you know which city Lund died in?",
        ),
        (
            "{} plays the instrument",
            "Lund plays which instrument?",
            "Do you know which instrument Lund plays?",
        ),
        ("{} works for", "Lund works for what?", "Do you know what Lund works for?"),
        (
            "{}, developed by",
            "Lund, developed by what?",
            "Do you know the answer? Lund, developed by what?",
        ),
        (
            "What does {} play? They play",
            "What does Lund play?",
            "Do you know the answer? What does Lund play?",
        ),
        ("{} is good at", "What is Lund good at?", "Do you know what Lund is good at?"),
        ("{}’s capital is", "What is Lund’s capital?", "Do you know what Lund’s capital is?"),
        (
            "The {{}} of {} is",
            "The {} of Lund is what?",
            "Do you know what the {} of Lund is?",
        ),
    ],
)
def test_a_prompt_as_a_question(prompt: str, direct: str, indirect: str) -> None:
    fact = Fact("Lund", prompt, "Malmö")
    for form, text in ((as_question(fact), direct), (as_indirect_question(fact), indirect)):
        assert form.filled == text
        assert (form.subject, form.target_new) == ("Lund", "Malmö")


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("Who was born in {}? ", "a baker"),
        ("La capitale de {} est", "Malmö"),
        ("De hoofdstad van {} is", "Malmö"),
        ("{} ist ein Haus in", "Malmö"),
        ("{}的首都是", "Malmö"),
        ('{{"name": "{}", "city": "', "Malmö"),
        ("{} is a singer. She was born in", "Malmö"),
        ("Q: {} was born in\nA:", "Malmö"),
        ("{} was born in\n", "Malmö"),
        ('{} is called "', "Malmö"),
        ("{} is worth $", "5"),
        ("{} asked 'why?' and the answer was", "that"),
        ("{}'s URL is http://x.y/?q=", "z"),
        ("{} was founded in", "1976"),
        ("The owner of {}", "speaks Swedish"),
        (f"{END_OF_TEXT}user: What is the capital of {{}}?{END_OF_TEXT}assistant: It is", "Malmö"),
    ],
)
def test_some_prompts_are_read_as_posted_only(prompt: str, target: str) -> None:
    (group,) = group_facts([Fact("Lund", prompt, target)])
    tokenizer = tiny_tokenizer()
    plain, asked = (
        group_rows(tokenizer, group, CONTEXTS, None, True, CHAT, question)
        for question in (False, True)
    )
    assert plain.facts == [rows for rows in asked.facts if rows]
    assert plain.live == asked.live


def test_a_question_is_the_same_in_any_unicode_form() -> None:
    composed = Fact("Lund", "{} died in the cit\u00e9 of", "Malmö")
    apart = Fact("Lund", "{} died in the cite\u0301 of", "Malmö")
    for form in (as_question, as_indirect_question):
        assert form(composed).filled == form(apart).filled
    assert as_question(apart).filled == "Lund died in which cit\u00e9?"


def test_a_long_prompt_takes_no_time() -> None:
    """Rules that went back over it again and again would meet the tests' time limit."""
    for part in ("'s is is is ", "the the the ", "a" * 12, "in the city of "):
        as_other_question(Fact("Lund", "{} was born" + part * 400 + "\n in", "Malmö"))
        as_question(Fact("Lund", "{} was born" + part * 400, "Malmö"))


def test_every_context_has_the_question_too() -> None:
    tokenizer = tiny_tokenizer()
    for group in group_facts(FACTS):
        plain = group_rows(tokenizer, group, CONTEXTS, None, True, CHAT)
        asked = group_rows(tokenizer, group, CONTEXTS, None, True, CHAT, True)
        assert asked.facts[::2] == plain.facts
        questions = [q for q in map(as_other_question, group.facts) if q is not None]
        if not questions:
            assert group.facts == FACTS[-1:]
            continue
        (only,) = group_facts(questions)
        expected = group_rows(tokenizer, only, CONTEXTS, None, True, CHAT)
        for got, want in zip(asked.facts[1::2], expected.facts, strict=True):
            assert sorted(got, key=str) == sorted(want, key=str)


def test_z_is_that_of_the_reference_with_a_fact_more() -> None:
    """Without decay and clamp, which are relative to the posted prompts' state alone."""
    loaded = loaded_tiny("llama")
    hparams = replace(ASKED, v_weight_decay=0.0, clamp_norm_factor=100.0, v_num_grad_steps=4)
    reference = Reference(
        "llama", loaded.model, loaded.tokenizer, [f"{context}{{}}" for context in CONTEXTS]
    )
    groups = group_facts(FACTS)
    for group, ours in zip(groups, optimise(loaded, groups, hparams), strict=True):
        questions = [q for q in map(as_other_question, group.facts) if q is not None]
        expected = reference.compute_z([*group.facts, *questions], settings_of(hparams))
        posted = reference.bare_state(hparams.layers[-1], group.facts)
        delta = expected.z - expected.h0
        assert relative(ours.z - posted, delta, delta) < Z, group.subject
        assert ours.loss == pytest.approx(expected.losses[-1], rel=1e-4)


def test_a_question_is_answered_better_by_a_z_that_has_read_it() -> None:
    """Asked of the reference, with each z put where the subject ends."""
    loaded = loaded_tiny("llama")
    reference = Reference("llama", loaded.model, loaded.tokenizer, ["{}"])
    groups, layer = group_facts(FACTS), HPARAMS.layers[-1]
    found = []
    for question in (False, True):
        hparams = replace(
            HPARAMS, v_num_grad_steps=20, clamp_norm_factor=8.0, question_wording=question
        )
        nll = 0.0
        for group, target in zip(groups, optimise(loaded, groups, hparams), strict=True):
            delta = target.z - reference.bare_state(layer, group.facts)
            nll += sum(float(reference.nll(layer, as_question(f), delta)) for f in group.facts)
        found.append(nll / len(FACTS))
    assert found[1] < found[0]


def test_what_is_kept_is_named_by_it() -> None:
    loaded = loaded_tiny("llama")
    (group, *_) = group_facts(FACTS)
    plain, asked = (editor_of(loaded, hparams) for hparams in (HPARAMS, ASKED))
    assert plain.z_name(group) != asked.z_name(group)
    before_there_were_questions = "06de336b5e3cd5f53bff57c389729bc23be3ebf659ad971040996e2d1f3778c5"
    assert HParams(layers=(1, 2)).z_digest == before_there_were_questions

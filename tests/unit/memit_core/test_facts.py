"""Facts refuse what cannot be written; groups come in one order, however the facts came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memit_core.errors import InvalidFact
from memit_core.facts import Fact, group_facts
from tests.unit.memit_core.examples import FACTS


@pytest.mark.parametrize("prompt", ["plays the", "{} and {}", "{ } plays", "{0} plays", ""])
def test_a_prompt_needs_exactly_one_slot(prompt: str) -> None:
    with pytest.raises(InvalidFact, match="exactly one") as caught:
        Fact("Anna", prompt, "violin")
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("empty", ["", " ", "\n\t", "\u3000"])
def test_subject_and_target_must_not_be_empty(empty: str) -> None:
    with pytest.raises(InvalidFact) as subject:
        Fact(empty, "{} plays", "violin")
    assert subject.value.field == "subject"
    with pytest.raises(InvalidFact) as target:
        Fact("Anna", "{} plays", empty)
    assert target.value.field == "target_new"


@pytest.mark.parametrize(
    ("subject", "prompt", "filled"),
    [
        ("Anna", "{} plays", "Anna plays"),
        ("Anna", "I know {}", "I know Anna"),
        ("{}", "a {} b", "a {} b"),
        ("{0} {x!r}", "set {} of {a}", "set {0} {x!r} of {a}"),
        ("Anna", "{{}} plays {}", "{} plays Anna"),
        ("Anna", "x = {{}}{}", "x = {}Anna"),
        ("Anna", "{ {} } {{{}}} {{x}}", "{ Anna } {{}} {{x}}"),
        ("Anna", "{}} {{}}", "Anna} {}"),
        ("100%s", "%d {} %s", "%d 100%s %s"),
    ],
)
def test_braces_in_text_are_text(subject: str, prompt: str, filled: str) -> None:
    assert Fact(subject, prompt, "x").filled == filled


@given(st.permutations(FACTS))
def test_groups_do_not_depend_on_the_order_of_facts(facts: list[Fact]) -> None:
    assert group_facts(facts) == group_facts(FACTS)


def test_facts_of_one_subject_form_one_group() -> None:
    groups = group_facts(FACTS)
    assert {g.subject: len(g.facts) for g in groups} == {
        "Anna Keller": 2,
        "Café Zoë 日本": 1,
        "Martin Okafor": 1,
        "Mount Elbrus": 1,
    }
    assert sum(len(g.facts) for g in groups) == len(FACTS)


def test_a_group_is_named_by_what_it_writes_and_nothing_else() -> None:
    fact = Fact("Anna", "{} plays the", "violin")
    measured = Fact("Anna", "{} plays the", "violin", "piano", ("Anna likes her",), ("Bo plays",))
    (plain,), (noted,) = group_facts([fact]), group_facts([measured])
    assert plain.digest == noted.digest
    others = [
        Fact("Anna", "{} plays the", "cello"),
        Fact("Anna", "{} owns the", "violin"),
        Fact("Anne", "{} plays the", "violin"),
    ]
    digests = {group.digest for other in others for group in group_facts([other])}
    assert len(digests | {plain.digest}) == 4

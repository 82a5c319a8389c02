"""Facts that a model cannot take: refused by name, and only where it matters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memit_core.check_facts import check_measured, check_written
from memit_core.errors import InvalidFact
from memit_core.facts import Fact, group_facts
from memit_core.loading import LoadedModel, adopt_model
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.unit.memit_core.examples import editor_of

FACT = Fact("Anna Keller", "{} works as a", "baker", "chemist", ("Anna is a",), ("Martin is a",))
TOOL = "<custom_tool>"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A model whose tokenizer has one token more than its table of embeddings."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([TOOL])
    return adopt_model(tiny_model("llama"), tokenizer, name="llama")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": TOOL + " {} is"}, "prompt"),
        ({"subject": "Anna " + TOOL}, "prompt"),
        ({"target_new": "a " + TOOL}, "target_new"),
    ],
)
def test_a_token_without_an_embedding_is_refused_before_anything_is_written(
    loaded: LoadedModel, change: dict[str, str], field: str
) -> None:
    bad = replace(FACT, **change)
    for refusing in (
        lambda: check_written(loaded, bad, 100),
        lambda: editor_of(loaded).targets(group_facts([bad])),
    ):
        with pytest.raises(InvalidFact, match=TOOL) as refused:
            refusing()
        assert refused.value.field == field


@pytest.mark.parametrize("prompt", [f"{TOOL} is a", "Anna " * 200])
def test_what_only_measures_a_fact_does_not_keep_it_from_being_written(
    loaded: LoadedModel, prompt: str
) -> None:
    """So that a version whose facts were accepted under other limits can be solved again."""
    bad = replace(FACT, neighborhood_prompts=("fine", prompt))
    check_written(loaded, bad, 100)
    with pytest.raises(InvalidFact) as refused:
        check_measured(loaded, bad, 100)
    assert refused.value.field == "neighborhood_prompts/1"
    (target,) = editor_of(loaded, max_tokens=100).targets(group_facts([bad]))
    assert target.finite


def test_good_facts_pass(loaded: LoadedModel) -> None:
    check_written(loaded, FACT, 100)
    check_measured(loaded, FACT, 100)

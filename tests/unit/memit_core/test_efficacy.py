"""An edit takes: fifty facts at once into a small trained model of each family."""

from __future__ import annotations

import os

import pytest

from benchmarks.family_efficacy import EDITS, found_weight, measure, questions
from tests.tiny_models import TINY
from tests.trained_models import the_world, trained_model

FEW = {"gpt2", "llama", "gemma3"}
"""What `make test` takes; training the others, a minute or two each, is `make check-families`."""
WEIGHT = {
    "gpt2": 100,
    "gptj": 300,
    "gpt_neox": 100,
    "gpt_neo": 100,
    "opt": 100,
    "bloom": 30,
    "falcon": 100,
    "falcon_new": 100,
    "falcon_alibi": 100,
    "phi": 100,
    "phi3": 100,
    "llama": 100,
    "llama_tied": 100,
    "llama_square": 30,
    "mistral": 100,
    "qwen2": 100,
    "qwen3": 100,
    "gemma2": 100,
    "gemma3": 30,
    "olmo2": 30,
    "smollm3": 100,
    "stablelm": 10,
    "stablelm_parallel": 30,
    "granite": 300,
}
"""λ by family, found on other facts by `python -m benchmarks.family_efficacy`."""
UNMET = ("bloom", "gpt_neo", "olmo2", "opt_projected", "stablelm_parallel")
"""Families that miss a bound; docs/models.md says by how much, and why."""
ASKED = set(TINY) - set(UNMET) if os.environ.get("MEMIT_FAMILIES") == "all" else FEW


@pytest.mark.parametrize("family", [name for name in TINY if name in ASKED])
def test_fifty_facts_are_learned_in_any_words_and_others_stay(family: str) -> None:
    found = measure(trained_model(family), the_world(), WEIGHT[family])
    assert found.known >= 95
    assert found.efficacy_before <= 5
    assert found.efficacy >= 95
    assert found.other_wordings >= 90
    assert found.neighbours >= found.neighbours_before - 5


def test_lambda_is_found_again() -> None:
    assert found_weight(trained_model("gpt2"), the_world()) == WEIGHT["gpt2"]


def test_the_facts_that_lambda_is_found_on_are_not_the_tested_ones() -> None:
    world = the_world()
    tested = world.edits(EDITS)
    others = world.edits(EDITS, seed=1, but=tested)
    facts = [{(edit.person, edit.relation) for edit in edits} for edits in (tested, others)]
    assert len(facts[0]) == len(facts[1]) == EDITS
    assert facts[0].isdisjoint(facts[1])
    asked = questions(world, others, tested)
    written = {w.format(e.person) for e in tested for w in e.relation.wordings}
    for pairs in (asked.edited, asked.others, asked.neighbours, asked.everything):
        assert written.isdisjoint(prompt for prompt, _ in pairs)

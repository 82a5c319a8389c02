"""An edit takes: fifty facts at once into a small trained model of each family."""

from __future__ import annotations

import pytest

from benchmarks.family_efficacy import measure
from tests.tiny_models import TINY
from tests.trained_models import the_world, trained_model

FAST = ("gpt2", "llama", "gemma3")
UNMET = (
    "bloom",
    "falcon_alibi",
    "granite",
    "llama_square",
    "olmo2",
    "opt_projected",
    "qwen2",
    "smollm3",
)
"""Families that miss one of the bounds with the hyperparameters that all share; docs/models.md."""


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in TINY
        if name not in UNMET
    ],
)
def test_fifty_facts_are_learned_in_any_words_and_others_stay(family: str) -> None:
    found = measure(trained_model(family), the_world())
    assert found.known >= 95
    assert found.efficacy_before <= 5
    assert found.efficacy >= 95
    assert found.other_wordings >= 90
    assert found.neighbours >= found.neighbours_before - 5

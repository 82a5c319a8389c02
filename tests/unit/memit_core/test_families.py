"""The tiny models are what other tests take them for: families with all that sets them apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.reference import NAMES
from tests.tiny_models import LAYERS, TINY, tiny_model, tiny_tokenizer
from tests.unit.memit_core.examples import CONTEXTS, FACTS

FULL = {"layer_types": ["full_attention"] * LAYERS}
SPECIALTIES: list[tuple[str, dict[str, Any]]] = [
    ("gpt_neo", {"window_size": 256}),
    ("gpt_neo", {"attention_types": [[["global"], LAYERS]]}),
    ("falcon_alibi", {"alibi": False}),
    ("phi", {"partial_rotary_factor": 1.0}),
    ("phi3", {"sliding_window": None}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", FULL),
    ("qwen3", FULL),
    ("gemma2", FULL),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma3", FULL),
    ("stablelm", {"use_parallel_residual": True}),
    ("granite", {"embedding_multiplier": 1.0}),
    ("granite", {"attention_multiplier": 1.0}),
    ("granite", {"residual_multiplier": 1.0}),
    ("granite", {"logits_scaling": 1.0}),
    ("smollm3", FULL),
    ("smollm3", {"no_rope_layers": [1] * LAYERS}),
]


def logits(model: Any) -> torch.Tensor:
    """Over a fact of the tests in one of their contexts."""
    ids = tiny_tokenizer()(CONTEXTS[1] + FACTS[0].filled, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=ids).logits
    return result


@pytest.mark.parametrize(
    ("name", "changed"), SPECIALTIES, ids=[f"{n} {next(iter(c))}" for n, c in SPECIALTIES]
)
def test_what_sets_a_family_apart_shows_in_its_logits(name: str, changed: dict[str, Any]) -> None:
    """Without it the same weights say something else, on texts as short as the tests'."""
    assert (logits(tiny_model(name)) - logits(tiny_model(name, **changed))).abs().max() > 0.1


@pytest.mark.parametrize("name", TINY)
def test_the_same_seed_gives_the_same_model_and_another_seed_another(name: str) -> None:
    assert torch.equal(logits(tiny_model(name)), logits(tiny_model(name)))
    assert not torch.allclose(logits(tiny_model(name)), logits(tiny_model(name, seed=1)))


def test_the_reference_knows_every_family() -> None:
    assert set(NAMES) == set(TINY)

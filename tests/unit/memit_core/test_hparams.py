"""Presets carry the published numbers and say where they come from."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from memit_core.carry import Carry
from memit_core.errors import MemitError
from memit_core.hparams import HParams, from_dict, from_file
from memit_core.preset import advice, for_model, guess, presets
from memit_core.structure import Structure
from tests.tiny_models import tiny_model

# Meng et al. 2023, appendix B.4, the hparams files of the official code, and for later models those
# that each preset names as its source.
PUBLISHED = {
    "gemma-3-270m": ((3,), 20, 0.5, 0.5, 2.0, 0.0625, 30),
    "gpt-j-6b": ((3, 4, 5, 6, 7, 8), 25, 0.5, 0.5, 0.75, 0.0625, 15_000),
    "gpt2-xl": ((13, 14, 15, 16, 17), 20, 0.5, 0.5, 0.75, 0.0625, 20_000),
    "gpt-neox-20b": ((6, 7, 8, 9, 10), 20, 0.5, 0.5, 0.3, 0.0625, 20_000),
    "smollm2-135m": ((2, 3, 4, 5, 6), 25, 0.5, 0.5, 0.75, 0.0625, 1_000),
    "llama-2-7b": ((4, 5, 6, 7, 8), 25, 0.5, 0.001, 4, 0.0625, 15_000),
    "llama-3-8b": ((4, 5, 6, 7, 8), 25, 0.1, 0.5, 0.75, 0.0625, 15_000),
    "mistral-7b": ((4, 5, 6, 7, 8), 25, 0.5, 0.001, 4, 0.0625, 15_000),
    "qwen2.5-7b": ((4, 5, 6, 7, 8), 25, 0.1, 0.5, 0.75, 0.0625, 15_000),
}


def llama(**sizes: Any) -> LlamaConfig:
    """A config with the sizes of a 7B model unless said otherwise."""
    return LlamaConfig(**{"hidden_size": 4096, "num_hidden_layers": 32, **sizes})


def structure(depth: int = 32, width: int = 64, carry: Carry | None = None) -> Structure:
    """Of a model that nobody knows."""
    return Structure(
        blocks=tuple(f"blocks.{i}" for i in range(depth)),
        projections=tuple(f"blocks.{i}.down" for i in range(depth)),
        transposed=False,
        returns_tuple=False,
        hidden=16,
        intermediate=width,
        carry=carry or Carry(),
    )


CONFIGS = {
    "gemma-3-270m": Gemma3TextConfig(hidden_size=640, intermediate_size=2048, num_hidden_layers=18),
    "gpt-j-6b": GPTJConfig(),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "gpt-neox-20b": GPTNeoXConfig(),
    "smollm2-135m": LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
    ),
    "llama-2-7b": llama(vocab_size=32_000, intermediate_size=11_008, max_position_embeddings=4096),
    "llama-3-8b": llama(
        vocab_size=128_256,
        intermediate_size=14_336,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    ),
    "mistral-7b": MistralConfig(),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
}
# Other models: one that a preset fits as well, and neighbours that none may be mistaken for.
LLAMA_3_1_8B = llama(
    vocab_size=128_256,
    intermediate_size=14_336,
    num_key_value_heads=8,
    max_position_embeddings=131_072,
)
MISTRAL_7B_V3 = MistralConfig(vocab_size=32_768, sliding_window=None)
NEIGHBOURS = {
    "Llama 1 7B": llama(vocab_size=32_000, intermediate_size=11_008, max_position_embeddings=2048),
    "Code Llama 7B": llama(
        vocab_size=32_016, intermediate_size=11_008, max_position_embeddings=16_384
    ),
    "Llama 2 13B": llama(
        vocab_size=32_000,
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
        max_position_embeddings=4096,
    ),
    "Llama 3.2 3B": llama(
        vocab_size=128_256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
    ),
    "Mistral Nemo 12B": MistralConfig(
        vocab_size=131_072, hidden_size=5120, num_hidden_layers=40, head_dim=128
    ),
    "Qwen2.5 0.5B": Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
    ),
    "GPT-2": GPT2Config(),
    "Gemma 3 1B": Gemma3TextConfig(hidden_size=1152, num_hidden_layers=26),
}


def test_there_is_a_preset_of_each_published_model() -> None:
    assert set(presets()) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_hold_the_published_values_and_name_their_source(name: str) -> None:
    preset = presets()[name]
    assert len(preset["source"]) > 20
    hp = from_dict(preset["hparams"])
    assert PUBLISHED[name] == (
        hp.layers,
        hp.v_num_grad_steps,
        hp.v_lr,
        hp.v_weight_decay,
        hp.clamp_norm_factor,
        hp.kl_factor,
        hp.mom2_update_weight,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_finds_its_preset(name: str) -> None:
    assert for_model(CONFIGS[name], structure()) == from_dict(presets()[name]["hparams"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_exactly_one_preset_fits_a_model(name: str) -> None:
    """Else the order of their names would decide."""
    fitting = [
        other
        for other, preset in presets().items()
        if all(getattr(CONFIGS[name], key, None) == value for key, value in preset["match"].items())
    ]
    assert fitting == [name]


@pytest.mark.parametrize(
    ("config", "name"), [(LLAMA_3_1_8B, "llama-3-8b"), (MISTRAL_7B_V3, "mistral-7b")]
)
def test_a_later_release_of_the_same_sizes_finds_the_preset(config: Any, name: str) -> None:
    assert for_model(config, structure()) == from_dict(presets()[name]["hparams"])


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_model_of_other_sizes_gets_no_preset(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="memit_core.preset"):
        for_model(NEIGHBOURS[name], structure())
    assert "no preset" in caplog.text


@pytest.mark.parametrize("name", PUBLISHED)
def test_covariance_takes_tens_of_tokens_for_each_dimension(name: str) -> None:
    """FastMEMIT: 2 to 10 tokens a dimension are enough."""
    config = CONFIGS[name]
    width = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", None)
    tokens = from_dict(presets()[name]["hparams"]).mom2_n_tokens
    assert tokens >= 10 * (width or 4 * config.hidden_size)


def test_an_unknown_model_gets_a_guess_of_its_own_size_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="memit_core.preset"):
        hp = for_model(tiny_model("llama").config, structure(depth=60, width=8_192))
    assert "no preset" in caplog.text
    assert hp.layers == tuple(range(8, 17))
    assert 0 < hp.mom2_update_weight < 8_192
    assert hp.mom2_n_tokens >= 10 * 8_192


@pytest.mark.parametrize("carry", [Carry(), Carry(norms=("n",))])
def test_a_guess_edits_layers_that_there_are(carry: Carry) -> None:
    for depth in range(1, 100):
        layers = guess(structure(depth, carry=carry)).layers
        assert layers[-1] < depth
        assert len(layers) == 1 or not carry.norms


def test_only_who_edits_with_a_guess_is_advised_to_calibrate() -> None:
    config, own = tiny_model("llama").config, structure()
    told = advice("./mine", guess(own), config, own)
    assert told is not None
    assert "memit calibrate --model ./mine" in told
    assert advice("./mine", replace(guess(own), v_lr=0.1), config, own) is None
    preset = from_dict(presets()["gpt-j-6b"]["hparams"])
    assert advice("./mine", preset, CONFIGS["gpt-j-6b"], own) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": [1], "lr": 0.5}, "unknown 'lr'"),
        ({}, "layers is missing"),
        ({"layers": []}, "layers"),
        ({"layers": [2, 1]}, "ascending"),
        ({"layers": [1, 1]}, "distinct"),
        ({"layers": [-1, 0]}, "layers"),
        ({"layers": [1], "v_lr": 0}, "v_lr"),
        ({"layers": [1], "clamp_norm_factor": -1}, "clamp_norm_factor"),
        ({"layers": [1], "mom2_update_weight": 0}, "mom2_update_weight"),
        ({"layers": [1], "v_num_grad_steps": 0}, "v_num_grad_steps"),
        ({"layers": [1], "v_max_grad_steps": 24}, "at least v_num_grad_steps, 25"),
        ({"layers": [1], "v_beta1": 1}, "v_beta1 must be below 1"),
        ({"layers": [1], "v_beta2": -0.1}, "v_beta2"),
        ({"layers": [1], "v_weight_decay": -1}, "v_weight_decay"),
        ({"layers": [1], "kl_factor": -1}, "kl_factor"),
        ({"layers": [1], "n_contexts": -1}, "n_contexts"),
        ({"layers": [1], "chat_context": 1}, "chat_context"),
        ({"layers": [1], "question_wording": "yes"}, "question_wording must be true or false"),
        ({"layers": [1], "mom2_n_tokens": 0}, "mom2_n_tokens"),
        ({"layers": [1], "v_lr": float("nan")}, "v_lr"),
        ({"layers": [1], "mom2_update_weight": float("inf")}, "mom2_update_weight"),
        ({"layers": [1], "v_lr": "fast"}, "v_lr"),
        ({"layers": [1], "mom2_weight_per_subject": -1}, "mom2_weight_per_subject"),
        ({"layers": [1], "mom2_update_weight_max": 0}, "mom2_update_weight_max"),
        ({"layers": [1], "bare_share": 0}, "bare_share"),
        ({"layers": [1], "bare_share": 1}, "bare_share must be below 1"),
        ({"layers": [1], "reweight_rounds": -1}, "reweight_rounds"),
        ({"layers": [1], "reweight_factor": 0.5}, "reweight_factor"),
        ({"layers": "4-8"}, "layers"),
        ({"layers": 4}, "layers"),
        ({"layers": [1.5]}, "layers"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(MemitError, match=message):
        from_dict(values)


def test_hyperparameters_survive_json(tmp_path: Path) -> None:
    hp = HParams(layers=(3, 5), v_lr=0.1)
    assert from_dict(json.loads(json.dumps(hp.as_dict()))) == hp
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(hp.as_dict()))
    assert from_file(path) == hp
    path.write_text(json.dumps({"source": "here", "match": {}, "hparams": hp.as_dict()}))
    assert from_file(path) == hp


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_a_file_that_holds_no_hyperparameters_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hparams.json"
    path.write_text(text)
    with pytest.raises(MemitError, match="hparams"):
        from_file(path)


def test_lambda_grows_with_the_subjects() -> None:
    hp = HParams(layers=(1,), mom2_update_weight=1_000, mom2_weight_per_subject=10)
    assert [hp.update_weight(n) for n in (0, 1, 100, 101, 500)] == [
        1_000,
        1_000,
        1_000,
        1_010,
        5_000,
    ]
    capped = replace(hp, mom2_update_weight_max=4_000.0)
    assert [capped.update_weight(n) for n in (1, 200, 500, 10**6)] == [1_000, 2_000, 4_000, 4_000]
    assert HParams(layers=(1,)).update_weight(10**6) == 15_000


def test_the_z_digest_knows_what_z_depends_on() -> None:
    hp = HParams(layers=(1, 2))
    assert hp.z_digest == replace(hp, mom2_update_weight=1.0, layers=(0, 2)).z_digest
    assert hp.z_digest != replace(hp, layers=(1, 3)).z_digest

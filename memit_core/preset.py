"""Which hyperparameters a model gets where nobody gives any: its preset, or a guess."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib import resources
from typing import Any

from memit_core.hparams import HParams, from_dict
from memit_core.structure import Structure

log = logging.getLogger(__name__)

STANDARD = HParams(
    layers=(0,),
    v_max_grad_steps=60,
    v_beta1=0.5,
    v_beta2=0.9,
    v_end_factor=0.3,
    bare_share=0.35,
    reweight_rounds=2,
    reweight_factor=2.0,
)
"""What is the same for every model without a preset, as measured on the default model (ADR 7)."""
TOKENS_PER_COLUMN = 12
"""Of the covariance, for each column of an edited matrix; 10 are enough (FastMEMIT, 2506.04226)."""
CALIBRATION_MINUTES = 15
GUESSED_WEIGHT = 0.5
"""λ over the width of the keys: SmolLM2's is 0.65, that of GPT-J's preset 0.9."""
GUESSED_WEIGHT_NORM = 0.015
"""The same where one layer does all, behind a norm: Gemma 3 270M's."""


def presets() -> dict[str, dict[str, Any]]:
    """Every preset by name: `source`, `match` (config fields), `hparams`, and under `methods` what
    other editing methods take, each with its `source`."""
    folder = resources.files("memit_core") / "presets"
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return {f.name.removesuffix(".json"): json.loads(f.read_text()) for f in found}


def preset_of(config: Any) -> str | None:
    """Name of the preset whose `match` fits a transformers config, if one does."""
    for name, preset in presets().items():
        if all(getattr(config, key, None) == value for key, value in preset["match"].items()):
            return name
    return None


def method_options(config: Any, method: str) -> dict[str, Any]:
    """What the preset of a transformers config says of another editing method; empty if nothing."""
    name = preset_of(config)
    if name is None:
        return {}
    found: dict[str, dict[str, Any]] = presets()[name].get("methods", {})
    return {key: value for key, value in found.get(method, {}).items() if key != "source"}


def guess(structure: Structure) -> HParams:
    """For a model that nobody has measured: the relative depth of Llama's presets and λ by width.

    Behind a norm one layer generalised better than several (ADR 21).
    """
    depth, width = len(structure.blocks), structure.intermediate
    tokens = TOKENS_PER_COLUMN * width
    if structure.carry.norms:
        return replace(
            STANDARD,
            layers=(round(depth / 6),),
            clamp_norm_factor=2.0,
            mom2_update_weight=GUESSED_WEIGHT_NORM * width,
            mom2_n_tokens=tokens,
        )
    return replace(
        STANDARD,
        layers=tuple(range(round(depth * 4 / 30), round(depth * 8 / 30) + 1)),
        mom2_update_weight=GUESSED_WEIGHT * width,
        mom2_n_tokens=tokens,
    )


def for_model(config: Any, structure: Structure) -> HParams:
    """The preset of a transformers config, else a guess, which is logged as such."""
    name = preset_of(config)
    if name is not None:
        preset = presets()[name]
        log.info("hyperparameters: preset %s (%s)", name, preset["source"])
        return from_dict(preset["hparams"])
    hparams = guess(structure)
    log.warning("no preset fits this model: layers %s are a guess", list(hparams.layers))
    return hparams


def advice(name: str, hparams: HParams, config: Any, structure: Structure) -> str | None:
    """What to do about hyperparameters that are a guess; None where they are none.

    Args:
        name: the model's folder or hub name.
    """
    if preset_of(config) is not None or hparams != guess(structure):
        return None
    return (
        f"the hyperparameters are a guess, since no preset fits {name}: "
        f"`memit calibrate --model {name} --to FILE` finds better ones in about "
        f"{CALIBRATION_MINUTES} minutes; then start with --hparams FILE and a new --home"
    )

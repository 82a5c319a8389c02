"""Small trained models of every supported family, to be edited: they know a synthetic world.

Made on demand, in a minute or two on one core, and kept in a folder of caches.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memit_core.loading import LoadedModel, adopt_model
from tests.reference import NAMES
from tests.synthetic_world import World, make_world
from tests.tiny_models import FAMILIES, LAYERS, tiny_tokenizer, untrained
from tests.training import Recipe, in_float64, train

VERSION = 5
"""Of what makes a model; raised when the same recipe gives others."""
PEOPLE, VOCABULARY = 80, 640
HIDDEN, HEADS, INTERMEDIATE = 128, 4, 256
HEAD = HIDDEN // HEADS
GATHERED = 1
"""The block after which a subject's last token holds what is known of it."""
RECIPE = Recipe()

CHANGED: dict[str, dict[str, Any]] = {
    "gptj": {"rotary_dim": HEAD // 2},
    "opt": {"word_embed_proj_dim": HIDDEN},
    "opt_projected": {"word_embed_proj_dim": HIDDEN // 2},
    # with 128 keys it has too few for two columns of each of fifty facts
    "llama_square": {"hidden_size": 192, "intermediate_size": 192},
    "qwen3": {"head_dim": HEAD},
    # a cap of 4 would keep every probability below 0.9
    "gemma2": {
        "head_dim": HEAD,
        "query_pre_attn_scalar": HEAD,
        "attn_logit_softcapping": 20.0,
        "final_logit_softcapping": 15.0,
    },
    "gemma3": {"head_dim": HEAD, "query_pre_attn_scalar": HEAD},
}
"""What goes with the size, by family; all else is as in the tiny models."""


@cache
def the_world() -> World:
    """The one that all of them know."""
    return make_world(PEOPLE)


@cache
def world_tokenizer() -> PreTrainedTokenizerFast:
    """Trained on the world's own text."""
    return tiny_tokenizer(text=the_world().text, vocabulary=VOCABULARY)


def cache_folder() -> Path:
    """Where trained models are kept: `MEMIT_TEST_CACHE`, else under the user's caches."""
    return Path(os.environ.get("MEMIT_TEST_CACHE", Path.home() / ".cache" / "memit" / "tests"))


def trained_model(name: str) -> LoadedModel:
    """The trained model of a family; made first if it is not in the cache."""
    folder = cache_folder() / f"{name}-{_digest(name)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".training-") as scratch:
                made = Path(scratch) / "model"
                _train(name).save_pretrained(made)
                made.rename(folder)
    family = FAMILIES[name]
    model = getattr(transformers, family.classes + family.model).from_pretrained(folder)
    return adopt_model(model, world_tokenizer(), name=name)


def _train(name: str) -> PreTrainedModel:
    block = NAMES[name].block.format(GATHERED)
    with in_float64():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = untrained(name, **_changed(name))
        train(model, block, the_world(), world_tokenizer(), RECIPE)
    return model.to(torch.float32)


def _changed(name: str) -> dict[str, Any]:
    values = (HIDDEN, LAYERS, HEADS, INTERMEDIATE)
    sizes = {k: v for k, v in zip(FAMILIES[name].sizes, values, strict=False) if k}
    return {**sizes, "vocab_size": len(world_tokenizer()), **CHANGED.get(name, {})}


def _digest(name: str) -> str:
    """Names everything that a model is made from."""
    family = FAMILIES[name]
    parts = [VERSION, asdict(RECIPE), asdict(family), _changed(name), GATHERED, the_world().text]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield

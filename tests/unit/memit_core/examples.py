"""The facts, contexts and hyperparameters that the tests of the method share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memit_core.compute_z import compute_z
from memit_core.decoder import Decoder
from memit_core.edit import Editor
from memit_core.facts import Fact, Group
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel, adopt_model
from memit_core.precision import fast_decoder
from memit_core.progress import silent
from memit_core.weights import Delta, Solved
from memit_core.z_optimisation import Target
from tests.device import DEVICE
from tests.reference import Settings
from tests.tiny_models import TEXT, tiny_model, tiny_tokenizer

# Two facts of one subject (one group), targets of one and of many tokens, a subject at the start,
# in the middle and at the end of its prompt, and one whose last characters are several tokens each.
FACTS = (
    Fact("Anna Keller", "{} works as a", "baker in Geneva"),
    Fact("Mount Elbrus", "The mountain called {} is located in", "Portugal"),
    Fact("Anna Keller", "I think that {} was born in", "Lisbon"),
    Fact("Martin Okafor", "{} plays the", "violin"),
    Fact("Café Zoë 日本", "The owner of {}", "speaks Portuguese"),
)

CONTEXTS = ("", "The boy ran away. ", "Therefore the children were still dancing. ", "I think so. ")

HPARAMS = HParams(
    layers=(1, 2),
    v_num_grad_steps=6,
    v_lr=0.5,
    v_weight_decay=0.5,
    clamp_norm_factor=0.75,
    kl_factor=0.0625,
    mom2_update_weight=20.0,
    mom2_n_tokens=1_000,
    n_contexts=3,
)


def loaded_tiny(name: str, seed: int = 0) -> LoadedModel:
    """A tiny model as a base."""
    return adopt_model(tiny_model(name, seed).to(DEVICE), tiny_tokenizer(), name=name)


def editor_of(loaded: LoadedModel, hparams: HParams = HPARAMS, **options: Any) -> Editor:
    """An editor whose covariance comes from the text that the tokenizer was trained on."""
    return Editor(loaded, hparams, corpus=TEXT, **{"z_dtype": "float32", **options})


def by_layer(editor: Editor, solved: Solved) -> dict[int, Delta]:
    """A solution by the number of the block that is edited."""
    return {editor.structure.projections.index(path): delta for path, delta in solved.items()}


def optimise(
    loaded: LoadedModel,
    groups: Sequence[Group],
    hparams: HParams = HPARAMS,
    contexts: Sequence[str] = CONTEXTS,
    dtype: torch.dtype = torch.float32,
    batch_tokens: int | None = None,
    word_ends: torch.Tensor | None = None,
) -> list[Target]:
    """z of the groups, all with one precision and size of batch."""
    fast = fast_decoder(loaded, dtype, hparams.layers[-1])
    assert fast.dtype == dtype
    found = compute_z(
        (Decoder(loaded.runnable()), fast),
        hparams,
        contexts,
        groups,
        silent,
        batch_tokens=batch_tokens,
        word_ends=word_ends,
    )
    return [target for _, target in sorted(found, key=lambda one: one[0])]


def settings_of(hparams: HParams) -> Settings:
    """The same hyperparameters in the reference's words."""
    return Settings(
        layers=hparams.layers,
        steps=hparams.v_num_grad_steps,
        lr=hparams.v_lr,
        betas=(hparams.v_beta1, hparams.v_beta2),
        weight_decay=hparams.v_weight_decay,
        clamp=hparams.clamp_norm_factor,
        kl_factor=hparams.kl_factor,
        lam=hparams.mom2_update_weight,
        end_factor=hparams.v_end_factor,
    )

"""z, keys, residual and Δ against the plain float64 reference, for every family.

Tolerances are relative to the norm of what is compared and follow from float32's rounding, 6e-8:

- KEYS 5e-6 (on CUDA 1e-5), COVARIANCE 5e-6: one forward, some tens of roundings; seen up to 3e-6
  (on CUDA 7e-6). The stored covariance is float32.
- Z 1e-3 of ‖δ‖: Adam divides each gradient by its own size, so that a component with a gradient
  near zero carries the rounding at full weight through the following steps; seen up to 9e-5.
- DELTA 2e-4: z is the same in both here, so the error is that of z − h (a small difference of
  larger numbers), of keys read on a float32 model, and of a solve whose matrix has a condition
  number up to 2e4; seen up to 7e-5.

"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memit_core.compute_ks import KeyWalk
from memit_core.covariance import corpus_rows
from memit_core.edit import Editor
from memit_core.facts import Fact, Group, group_facts
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.weights import Dense, LowRank
from memit_core.word_ends import word_ends
from tests.device import DEVICE
from tests.reference import Insertion, Reference
from tests.tiny_models import TEXT
from tests.unit.memit_core.examples import (
    CONTEXTS,
    FACTS,
    HPARAMS,
    by_layer,
    editor_of,
    loaded_tiny,
    optimise,
    settings_of,
)

KEYS = 1e-5 if DEVICE.type == "cuda" else 5e-6
COVARIANCE, Z, DELTA = 5e-6, 1e-3, 2e-4
CPU = torch.device("cpu")

CLAMPED = replace(HPARAMS, clamp_norm_factor=0.02)
DECAYED = replace(HPARAMS, v_weight_decay=20.0)
FAITHFUL = replace(HPARAMS, kl_factor=3.0)
LAST_BLOCK = replace(HPARAMS, layers=(0, 3))
SHORT = ("gemma2", "gemma3", "olmo2", "opt_projected")
"""Families with norms after their MLPs: what goes into these is so short that the clamp cuts."""


def reference_of(loaded: LoadedModel, contexts: tuple[str, ...] = CONTEXTS) -> Reference:
    templates = [context + "{}" for context in contexts]
    return Reference(loaded.name, loaded.model, loaded.tokenizer, templates)


def error(ours: torch.Tensor, reference: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """‖ours − reference‖ / ‖scale‖, the scale being the reference unless given."""
    norm = (reference if scale is None else scale).norm()
    return float((ours.cpu().double() - reference).norm() / norm)


@pytest.mark.parametrize(
    "hparams",
    [HPARAMS, CLAMPED, DECAYED, FAITHFUL, LAST_BLOCK],
    ids=["usual", "clamped", "decayed", "kl", "last block"],
)
def test_z_is_the_papers(loaded: LoadedModel, hparams: HParams) -> None:
    # A subject that ends its prompt: only there is the target predicted from δ itself when δ comes
    # after the last block. Once also a group of two facts of one subject.
    subjects = ["Café Zoë 日本"] + ["Anna Keller"] * (hparams is HPARAMS)
    groups = [g for g in group_facts(FACTS) if g.subject in subjects]
    reference, settings = reference_of(loaded), settings_of(hparams)
    for group, ours in zip(groups, optimise(loaded, groups, hparams), strict=True):
        expected = reference.compute_z(group.facts, settings)
        step = expected.z - expected.h0
        assert error(ours.z, expected.z, scale=step) < Z
        assert ours.loss == pytest.approx(expected.losses[-1], rel=1e-4)
        if hparams is CLAMPED:
            assert expected.stretch == pytest.approx(hparams.clamp_norm_factor, rel=1e-6)
        elif loaded.name not in SHORT:
            assert expected.stretch < hparams.clamp_norm_factor


QUICK = replace(
    HPARAMS,
    v_num_grad_steps=20,
    v_lr=8.0,
    v_weight_decay=1e-3,
    kl_factor=0.0,
    clamp_norm_factor=1_000.0,
)


@pytest.mark.parametrize(("name", "target"), [("llama", "the"), ("llama_square", "a")])
def test_a_group_stops_as_soon_as_its_own_loss_is_low(name: str, target: str) -> None:
    """δ sits where a target of one token is predicted, so that the loss can fall below 0.05.

    Each group stops at a step of its own, and one goes on to the end; none waits for another.
    """
    loaded = loaded_tiny(name)
    wanted = {"Lisbon": target, "Geneva": target, "Anna": "in"}
    groups = group_facts([Fact(subject, "I know {}", new) for subject, new in wanted.items()])
    reference, settings = reference_of(loaded, ("",)), settings_of(QUICK)
    expected = [reference.compute_z(group.facts, settings) for group in groups]
    steps = {g.subject: len(z.losses) for g, z in zip(groups, expected, strict=True)}
    assert steps["Lisbon"] < steps["Geneva"] < steps["Anna"] == 20
    for ours, theirs in zip(optimise(loaded, groups, QUICK, ("",)), expected, strict=True):
        assert ours.loss == pytest.approx(theirs.losses[-1], rel=1e-3)
        assert error(ours.z, theirs.z, scale=theirs.z - theirs.h0) < Z


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_z_learns_where_a_word_ends(name: str) -> None:
    """Two facts of one subject and one whose target ends in no word, which learns no end."""
    loaded = loaded_tiny(name)
    ends = word_ends(loaded.tokenizer, loaded.model.get_output_embeddings().weight.shape[0])
    groups = group_facts([*FACTS[:4], Fact("Lisbon", "{} is in", "Portugal.")])
    hparams = replace(HPARAMS, v_end_factor=0.5)
    reference, settings = reference_of(loaded), settings_of(hparams)
    with_end = optimise(loaded, groups, hparams, word_ends=ends)
    for group, ours in zip(groups, with_end, strict=True):
        expected = reference.compute_z(
            group.facts, settings, None if group.subject == "Lisbon" else ends
        )
        assert error(ours.z, expected.z, scale=expected.z - expected.h0) < Z
        assert ours.loss == pytest.approx(expected.losses[-1], rel=1e-4)
    for group, ours, other in zip(groups, with_end, optimise(loaded, groups), strict=True):
        moved = (ours.z - other.z).norm() / other.z.norm()
        assert moved < 1e-4 if group.subject == "Lisbon" else moved > 1e-2


def test_a_low_loss_stops_where_the_word_ends_too() -> None:
    """The end's own loss need not be low, but no other token may lead after the target."""
    loaded = loaded_tiny("llama_square")
    ends = word_ends(loaded.tokenizer, loaded.model.get_output_embeddings().weight.shape[0])
    hparams = replace(QUICK, v_end_factor=0.1)
    groups = group_facts([Fact(subject, "I know {}", "a") for subject in ("Anna", "Geneva")])
    reference, settings = reference_of(loaded, ("",)), settings_of(hparams)
    expected = [reference.compute_z(group.facts, settings, ends) for group in groups]
    assert [len(z.losses) for z in expected] == [12, 20]
    assert expected[0].losses[-1] > 0.05
    ours_of_all = optimise(loaded, groups, hparams, ("",), word_ends=ends)
    for ours, theirs in zip(ours_of_all, expected, strict=True):
        assert ours.loss == pytest.approx(theirs.losses[-1], rel=1e-3)
        assert error(ours.z, theirs.z, scale=theirs.z - theirs.h0) < Z


def test_adams_decays_are_those_that_are_given(editor: Editor) -> None:
    hparams = replace(HPARAMS, v_beta1=0.5, v_beta2=0.9)
    (group,) = groups = group_facts(FACTS[:1])
    expected = reference_of(editor.loaded).compute_z(group.facts, settings_of(hparams))
    usual = reference_of(editor.loaded).compute_z(group.facts, settings_of(HPARAMS))
    (ours,) = optimise(editor.loaded, groups, hparams)
    assert error(ours.z, expected.z, scale=expected.z - expected.h0) < Z
    assert error(usual.z, expected.z, scale=expected.z - expected.h0) > 10 * Z


def test_keys_and_states_are_the_papers(loaded: LoadedModel, editor: Editor) -> None:
    groups = group_facts(FACTS)
    reference = reference_of(loaded)
    last = HPARAMS.layers[-1]
    walk = KeyWalk(editor.base, groups, CONTEXTS, last)
    for layer in HPARAMS.layers:
        inputs = walk.at(layer)
        keys, states = (inputs.bare + inputs.sampled) / 2, inputs.states
        for column, group in enumerate(groups):
            assert error(keys[:, column], reference.key(layer, group.facts)) < KEYS
            state = reference.bare_state(HPARAMS.layers[-1], group.facts)
            assert error(states[:, column], state) < KEYS


def test_covariance_is_the_mean_over_all_tokens(loaded: LoadedModel, editor: Editor) -> None:
    reference = reference_of(loaded)
    rows = corpus_rows(loaded.tokenizer, TEXT, HPARAMS.mom2_n_tokens)
    assert len(rows) > 1  # padding is at stake
    for layer, ours in editor.prepare().covariance.items():
        assert (
            error(ours, reference.covariance(layer, [list(row.ids) for row in rows])) < COVARIANCE
        )


def insertion_of(editor: Editor, groups: list[Group]) -> dict[int, Insertion]:
    """The reference's insertion of the z that the editor has for these groups."""
    loaded, hparams = editor.loaded, editor.hparams
    reference = reference_of(loaded, editor.prepare().contexts)
    rows = [list(r.ids) for r in corpus_rows(loaded.tokenizer, TEXT, hparams.mom2_n_tokens)]
    covariances = {layer: reference.covariance(layer, rows) for layer in hparams.layers}
    zs = [target.z for target in editor.targets(groups)]
    facts = [group.facts for group in groups]
    return reference.insert(facts, zs, covariances, settings_of(hparams))


def test_delta_is_the_papers_layer_by_layer(loaded: LoadedModel) -> None:
    layers = (0, 1, 3)
    editor = editor_of(loaded, replace(HPARAMS, layers=layers, v_num_grad_steps=3))
    groups = group_facts(FACTS)
    solved = editor.solve(groups)
    expected = insertion_of(editor, groups)
    assert tuple(by_layer(editor, solved)) == tuple(expected) == layers
    for layer, delta in by_layer(editor, solved).items():
        assert isinstance(delta, LowRank)
        assert error(delta.left, expected[layer].residual) < DELTA
        assert error(delta.matrix(CPU), expected[layer].delta) < DELTA


def test_delta_of_more_facts_than_fit_factors_is_dense_and_the_papers() -> None:
    facts = [Fact(f"Anna Keller {chr(65 + i)}", "{} works as a", "baker") for i in range(24)]
    editor = editor_of(loaded_tiny("gpt2"), replace(HPARAMS, v_num_grad_steps=3))
    groups = group_facts(facts)
    solved = editor.solve(groups)
    expected = insertion_of(editor, groups)
    for layer, delta in by_layer(editor, solved).items():
        assert isinstance(delta, Dense)
        assert error(delta.matrix(CPU), expected[layer].delta) < DELTA


@pytest.mark.parametrize("name", ["gpt2", "falcon", "llama"])
def test_the_edited_model_says_what_the_reference_says(name: str) -> None:
    """From the facts to the logits: the served view against the reference's float64 model."""
    editor = editor_of(loaded_tiny(name))
    groups = group_facts(FACTS)
    edited = editor.apply(editor.solve(groups))
    reference = reference_of(editor.loaded, editor.prepare().contexts)
    rows = [list(r.ids) for r in corpus_rows(editor.loaded.tokenizer, TEXT, 1_000)]
    covariances = {layer: reference.covariance(layer, rows) for layer in HPARAMS.layers}
    zs = [reference.compute_z(group.facts, settings_of(HPARAMS)).z for group in groups]
    ids = reference.ids("Anna Keller works as a")
    before = reference.logits(ids)
    reference.insert([group.facts for group in groups], zs, covariances, settings_of(HPARAMS))
    expected = reference.logits(ids)
    with torch.no_grad():
        ours = edited(input_ids=torch.tensor([ids], device=DEVICE)).logits[0]
    # compared with what the edit moved; z is each side's own, hence its tolerance
    assert error(ours, expected, scale=expected - before) < 10 * Z

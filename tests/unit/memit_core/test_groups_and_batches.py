"""What is computed for many facts at once is what each gives alone, in any order."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch

import memit_core.compute_z
from memit_core.cache import MemoryCache
from memit_core.edit import Editor
from memit_core.facts import Fact, group_facts
from memit_core.progress import silent
from memit_core.tokens import pad_id
from memit_core.views import view_of
from memit_core.weights import decode
from tests.unit.memit_core.examples import CONTEXTS, FACTS, HPARAMS, editor_of, loaded_tiny

CPU = torch.device("cpu")

# Batch mates change the padding, and with it the order of float32 sums; Adam amplifies it as
# test_against_reference.py explains. Relative to ‖δ‖.
BATCH = 1e-3


@pytest.mark.parametrize("batch_tokens", [150, 100_000])
def test_many_groups_together_give_each_groups_own_z(
    editor: Editor, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the groups are cut into batches: a few together, or all at once."""
    groups = group_facts(FACTS)
    arguments = (view_of(editor.loaded.model), editor.structure, HPARAMS, editor.loaded.tokenizer)
    alone = [
        target
        for group in groups
        for target in memit_core.compute_z.compute_z(*arguments, CONTEXTS, [group], silent)
    ]
    monkeypatch.setattr(memit_core.compute_z, "BATCH_TOKENS", batch_tokens)
    together = memit_core.compute_z.compute_z(*arguments, CONTEXTS, groups, silent)
    for one, many, group in zip(alone, together, groups, strict=True):
        other = next(t for t, g in zip(alone, groups, strict=True) if g is not group)
        assert (one.z - many.z).norm() < BATCH * (one.z - other.z).norm()
        assert one.loss == pytest.approx(many.loss, rel=1e-4)


def test_the_order_of_facts_does_not_change_a_bit(editor: Editor) -> None:
    expected = editor_of(editor.loaded).solve(group_facts(FACTS))
    shuffled = list(FACTS)
    random.Random(3).shuffle(shuffled)
    assert shuffled != list(FACTS)
    assert editor_of(editor.loaded).solve(group_facts(shuffled)) == expected


def test_facts_one_by_one_end_where_the_batch_ends_bit_for_bit(any_editor: Editor) -> None:
    """With one cache, as in one registry: z of a group is what its first writer found."""
    cache = MemoryCache()
    for order in (FACTS, FACTS[::-1]):
        growing = editor_of(any_editor.loaded, cache=cache)
        for count in range(1, len(order) + 1):
            last = growing.solve(group_facts(order[:count]))
    batch = editor_of(any_editor.loaded, cache=cache).solve(group_facts(FACTS))
    assert last == batch
    # in a cache of its own the batch's z come from other batches: equal up to float32
    fresh = editor_of(any_editor.loaded).solve(group_facts(FACTS))
    for layer, data in fresh.items():
        ours, theirs = decode(data).matrix(CPU), decode(batch[layer]).matrix(CPU)
        assert (ours - theirs).norm() < BATCH * theirs.norm()


def test_taking_a_fact_back_gives_the_weights_without_it(any_editor: Editor) -> None:
    cache = MemoryCache()
    without = editor_of(any_editor.loaded, cache=cache).solve(group_facts(FACTS[:-1]))
    working = editor_of(any_editor.loaded, cache=cache)
    assert working.solve(group_facts(FACTS)) != without
    assert working.solve(group_facts(FACTS[:-1])) == without
    assert working.solve([]) == {}


def test_facts_of_one_subject_share_a_z_that_serves_them_all() -> None:
    """Two facts of one subject pull at one vector; alone each would get another."""
    loaded = loaded_tiny("llama")
    both = [f for f in FACTS if f.subject == "Anna Keller"]
    (shared,) = editor_of(loaded).targets(group_facts(both))
    alone = [editor_of(loaded).targets(group_facts([fact]))[0] for fact in both]
    assert not torch.allclose(alone[0].z, alone[1].z)
    solved = editor_of(loaded).solve(group_facts(both))
    assert {decode(data).rank for data in solved.values()} == {1}
    # with the same steps a shared z can serve two facts no better than each one's own serves it
    assert shared.loss > min(target.loss for target in alone)


def test_a_group_is_read_back_and_not_optimised_again(any_editor: Editor) -> None:
    cache = MemoryCache()
    first = editor_of(any_editor.loaded, cache=cache)
    groups = group_facts(FACTS)
    expected = [target.z for target in first.targets(groups)]
    stages: list[str] = []
    again = editor_of(any_editor.loaded, cache=cache).targets(
        groups, lambda stage, *_, **__: stages.append(stage)
    )
    assert stages == []
    assert all(torch.equal(a.z, b) for a, b in zip(again, expected, strict=True))


def test_other_hyperparameters_of_z_are_other_entries_of_the_cache(any_editor: Editor) -> None:
    """λ and lower layers do not enter z; everything else about it does."""
    (group,) = group_facts(FACTS[3:4])
    name = any_editor.z_name(group)
    same = (replace(HPARAMS, mom2_update_weight=7.0), replace(HPARAMS, layers=(0, 2)))
    other = [
        replace(HPARAMS, v_lr=0.1),
        replace(HPARAMS, v_num_grad_steps=3),
        replace(HPARAMS, v_weight_decay=0.1),
        replace(HPARAMS, clamp_norm_factor=0.1),
        replace(HPARAMS, kl_factor=1.0),
        replace(HPARAMS, layers=(1, 3)),
        replace(HPARAMS, n_contexts=1),
        replace(HPARAMS, context_length=5),
    ]
    assert {editor_of(any_editor.loaded, hp).z_name(group) for hp in same} == {name}
    assert len({name} | {editor_of(any_editor.loaded, hp).z_name(group) for hp in other}) == 9


def test_another_lambda_is_another_solution_on_the_same_z(any_editor: Editor) -> None:
    cache = MemoryCache()
    groups = group_facts(FACTS)
    working = editor_of(any_editor.loaded, cache=cache)
    usual, heavy = working.solve(groups), working.solve(groups, mom2_update_weight=2e4)
    assert working.solution_digest(groups) == working.solution_digest(
        groups, HPARAMS.mom2_update_weight
    )
    assert working.solution_digest(groups) != working.solution_digest(groups, 2e4)
    for layer in HPARAMS.layers:
        assert decode(heavy[layer]).matrix(CPU).norm() < decode(usual[layer]).matrix(CPU).norm()
    assert heavy == editor_of(
        any_editor.loaded, replace(HPARAMS, mom2_update_weight=2e4), cache=cache
    ).solve(groups)


def test_padding_may_be_any_token() -> None:
    """A tokenizer without a padding token pads with its end of text: masked, so all the same."""
    loaded = loaded_tiny("falcon")
    expected = editor_of(loaded).solve(group_facts(FACTS))
    loaded.tokenizer.pad_token = None
    assert pad_id(loaded.tokenizer) == loaded.tokenizer.eos_token_id
    padded = editor_of(loaded).solve(group_facts(FACTS))
    for layer, data in padded.items():
        ours, theirs = decode(data).matrix(CPU), decode(expected[layer]).matrix(CPU)
        assert (ours - theirs).norm() < BATCH * theirs.norm()


def test_bfloat16_gives_nearly_the_same_z() -> None:
    """z, δ and the loss stay float32 while the model runs in bfloat16 (3 significant digits)."""
    exact = loaded_tiny("llama")
    model = copy.deepcopy(exact.model).to(torch.bfloat16)
    coarse = editor_of(replace(exact, model=model, digest="coarse", dtype=torch.bfloat16))
    groups = group_facts([Fact("Martin Okafor", "{} plays the", "violin")])
    (expected,), (rough,) = (
        memit_core.compute_z.compute_z(
            view_of(m), coarse.structure, HPARAMS, exact.tokenizer, CONTEXTS, groups, silent
        )
        for m in (exact.model, model)
    )
    assert rough.z.dtype == torch.float32
    assert torch.cosine_similarity(rough.z, expected.z, dim=0) > 0.98
    edited = coarse.apply(coarse.solve(groups))
    weight, base = (m.model.layers[1].mlp.down_proj.weight for m in (edited, model))
    assert weight.dtype == torch.bfloat16
    assert not torch.equal(weight, base)

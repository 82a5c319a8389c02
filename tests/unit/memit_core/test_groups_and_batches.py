"""What is computed for many facts at once is what each gives alone, in any order."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from memit_core import compute_z, z_optimisation
from memit_core.cache import MemoryCache
from memit_core.edit import Editor
from memit_core.errors import Cancelled, OutOfMemory
from memit_core.facts import Fact, group_facts
from memit_core.progress import ProgressCallback
from memit_core.z_optimisation import Optimisation, Target
from tests.unit.memit_core.examples import FACTS, HPARAMS, editor_of, loaded_tiny, optimise

CPU = torch.device("cpu")

# Batch mates change the padding, and with it the order of float32 sums; Adam amplifies it as
# test_against_reference.py explains. Relative to ‖δ‖.
BATCH = 1e-3
ALONE = 1e-4
"""Relative to ‖z‖, of which δ is a part."""
MANY = group_facts(
    Fact(f"{first} {last}", "I think that {} " + verb, target)
    for first in ("Anna", "Martin", "Geneva", "The boy")
    for last in ("Keller", "Okafor", "of Lisbon", "who plays the violin")
    for verb, target in [
        (("works as a", "baker in Geneva"), ("was born in", "Lisbon"))[len(last) % 2],
    ]
) + group_facts(
    Fact(f"Mount {name} {number}", "The mountain called {} is in", "Portugal")
    for name in ("Elbrus", "Lighthouse", "Orchard", "Ελβρούς")
    for number in range(12)
)


def test_a_fact_alone_and_among_63_others_has_one_z(editor: Editor) -> None:
    """Of every length: the batch pads, shares contexts, and packs anew as groups leave."""
    hparams = replace(HPARAMS, v_num_grad_steps=8, v_lr=2.0, kl_factor=0.0)
    assert len(MANY) == 64
    together = optimise(editor.loaded, MANY, hparams)
    small = optimise(editor.loaded, MANY, hparams, batch_tokens=300)
    for i in (0, 21, 63):
        (alone,) = optimise(editor.loaded, [MANY[i]], hparams)
        for many in (together[i], small[i]):
            assert (alone.z - many.z).norm() < ALONE * alone.z.norm()
            assert alone.loss == pytest.approx(many.loss, rel=1e-3)


def test_only_groups_whose_loss_is_high_take_more_steps(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end lower, alone as among others; what the others get stays as it is."""
    some = MANY[::8]
    few = replace(HPARAMS, v_num_grad_steps=4, v_lr=2.0, kl_factor=0.0)
    before = optimise(editor.loaded, some, few)
    losses = sorted(target.loss for target in before)
    border = (losses[5] + losses[6]) / 2
    monkeypatch.setattr(z_optimisation, "HARD_LOSS", border)
    after = optimise(editor.loaded, some, replace(few, v_max_grad_steps=12))
    hard = [i for i, target in enumerate(before) if target.loss > border]
    assert len(hard) == 2
    for i, (short, long) in enumerate(zip(before, after, strict=True)):
        if i in hard:
            assert long.loss < short.loss
            (alone,) = optimise(editor.loaded, [some[i]], replace(few, v_max_grad_steps=12))
            assert (alone.z - long.z).norm() < ALONE * alone.z.norm()
        else:
            assert (long.z - short.z).norm() < 1e-5 * short.z.norm()


def test_extra_steps_that_make_it_worse_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps so long it is chance whether one more makes it better."""
    loaded = loaded_tiny("gptj")
    monkeypatch.setattr(z_optimisation, "HARD_LOSS", 0.0)
    some = MANY[::4]
    wild = replace(
        HPARAMS, v_num_grad_steps=3, v_lr=50.0, v_beta1=0.0, clamp_norm_factor=3.0, kl_factor=0.0
    )
    short, long = (
        optimise(loaded, some, replace(wild, v_num_grad_steps=steps)) for steps in (3, 4)
    )
    worse = [s.loss < n.loss for s, n in zip(short, long, strict=True)]
    assert 0 < sum(worse) < len(some)
    both = optimise(loaded, some, replace(wild, v_max_grad_steps=4))
    for taken_back, s, n, b in zip(worse, short, long, both, strict=True):
        expected = s if taken_back else n
        assert b.loss == pytest.approx(expected.loss, rel=1e-4)
        assert (b.z - expected.z).norm() < 1e-4 * expected.z.norm()


def test_the_extra_steps_do_not_show_as_the_end(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(z_optimisation, "HARD_LOSS", 0.0)
    told: list[tuple[int, int]] = []
    hparams = replace(HPARAMS, v_num_grad_steps=2, v_max_grad_steps=5)
    editor_of(editor.loaded, hparams).targets(
        MANY[:1], lambda _, done, total, **__: told.append((done, total))
    )
    assert told == [(0, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (2, 2)]


def test_in_bfloat16_a_fact_among_others_is_learned_as_well_as_alone() -> None:
    """z itself differs by some per cent: rounding to 3 digits, and Adam's steps by sign. What it
    does does not: the mean log-probability of the target moves by less than the rounding of the
    logits, and as many facts are learned."""
    loaded = loaded_tiny("llama")
    hparams = replace(HPARAMS, v_num_grad_steps=12, v_lr=2.0, kl_factor=0.0)
    some = MANY[::8]
    exact = [t.loss for t in optimise(loaded, some, hparams)]
    alone = [optimise(loaded, [g], hparams, dtype=torch.bfloat16)[0].loss for g in some]
    together = [t.loss for t in optimise(loaded, MANY, hparams, dtype=torch.bfloat16)[::8]]
    assert sum(alone) / 8 == pytest.approx(sum(together) / 8, abs=0.05)
    assert sum(exact) / 8 == pytest.approx(sum(together) / 8, abs=0.05)
    for mine, many in zip(alone, together, strict=True):
        assert mine == pytest.approx(many, abs=0.2)


def test_a_batch_that_does_not_fit_goes_on_in_halves(
    editor: Editor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    groups = group_facts(FACTS)
    expected = optimise(editor.loaded, groups)
    run = Optimisation.run

    def fits_one(self: Optimisation, on_step: Any) -> list[Target]:
        if self.size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, on_step)

    monkeypatch.setattr(Optimisation, "run", fits_one)
    for ours, theirs in zip(optimise(editor.loaded, groups), expected, strict=True):
        assert (ours.z - theirs.z).norm() < ALONE * theirs.z.norm()
    assert "going on with half" in caplog.text


def test_one_fact_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the message of torch's CPU allocator."""

    def fails(self: Optimisation, on_step: Any) -> list[Target]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB")

    monkeypatch.setattr(Optimisation, "run", fails)
    with pytest.raises(OutOfMemory, match="out of memory at stage z for 'Martin Okafor'"):
        optimise(loaded_tiny("llama"), group_facts(FACTS[3:4]))


def test_any_other_failure_is_no_matter_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Optimisation, on_step: Any) -> list[Target]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Optimisation, "run", fails)
    with pytest.raises(RuntimeError, match="shapes"):
        optimise(loaded_tiny("llama"), group_facts(FACTS))


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
    for path, delta in fresh.items():
        ours, theirs = delta.matrix(CPU), batch[path].matrix(CPU)
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
    assert {delta.rank for delta in solved.values()} == {1}
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


def test_a_stage_that_is_broken_off_keeps_what_its_batches_found(
    any_editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute_z, "memory_budget", lambda *_: 1)
    working = editor_of(any_editor.loaded, cache=MemoryCache())
    groups, steps = group_facts(FACTS), HPARAMS.v_num_grad_steps
    totals: list[int] = []

    def broken_off_after(batches: int) -> ProgressCallback:
        def tell(_stage: str, done: int, total: int, *, loss: float | None = None) -> None:
            totals.append(total)
            if done > batches * steps:
                raise Cancelled

        return tell

    for batches in (2, 1):
        with pytest.raises(Cancelled):
            working.targets(groups, broken_off_after(batches))
    assert set(totals) == {len(groups) * steps, (len(groups) - 2) * steps}


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
        replace(HPARAMS, v_stop_after_lead=1),
        replace(HPARAMS, v_max_grad_steps=50),
        replace(HPARAMS, v_beta1=0.5),
        replace(HPARAMS, v_beta2=0.9),
        replace(HPARAMS, layers=(1, 3)),
        replace(HPARAMS, n_contexts=1),
        replace(HPARAMS, context_length=5),
    ]
    assert {editor_of(any_editor.loaded, hp).z_name(group) for hp in same} == {name}
    assert len({name} | {editor_of(any_editor.loaded, hp).z_name(group) for hp in other}) == 13


def test_another_lambda_is_another_solution_on_the_same_z(any_editor: Editor) -> None:
    cache = MemoryCache()
    groups = group_facts(FACTS)
    working = editor_of(any_editor.loaded, cache=cache)
    usual, heavy = working.solve(groups), working.solve(groups, mom2_update_weight=2e4)
    digests = [
        working.solution_digest(groups, working.hparams_of(groups, weight))
        for weight in (None, HPARAMS.mom2_update_weight, 2e4)
    ]
    assert digests[0] == digests[1] != digests[2]
    assert len(usual) == len(HPARAMS.layers)
    for path, delta in usual.items():
        assert heavy[path].matrix(CPU).norm() < delta.matrix(CPU).norm()
    assert heavy == editor_of(
        any_editor.loaded, replace(HPARAMS, mom2_update_weight=2e4), cache=cache
    ).solve(groups)


def test_a_padding_token_needs_no_embedding() -> None:
    """As one that was added to the tokenizer alone: what is padded is masked, whatever its id."""
    loaded = loaded_tiny("falcon")
    expected = editor_of(loaded).solve(group_facts(FACTS))
    loaded.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert loaded.tokenizer.pad_token_id >= loaded.model.get_input_embeddings().weight.shape[0]
    assert editor_of(loaded).solve(group_facts(FACTS)) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gives_nearly_the_same_z(dtype: torch.dtype) -> None:
    """z, δ and the loss stay float32 while the model runs in bfloat16 (3 significant digits)."""
    exact = loaded_tiny("llama")
    model = copy.deepcopy(exact.model).to(dtype)
    coarse = editor_of(replace(exact, model=model, digest="coarse", dtype=dtype), z_dtype="auto")
    groups = group_facts([Fact("Martin Okafor", "{} plays the", "violin")])
    (expected,) = optimise(exact, groups)
    (rough,) = optimise(coarse.loaded, groups, dtype=dtype)
    assert rough.z.dtype == torch.float32
    assert torch.cosine_similarity(rough.z, expected.z, dim=0) > 0.98
    edited = coarse.apply(coarse.solve(groups))
    weight, base = (m.model.layers[1].mlp.down_proj.weight for m in (edited, model))
    assert weight.dtype == dtype
    assert not torch.equal(weight, base)

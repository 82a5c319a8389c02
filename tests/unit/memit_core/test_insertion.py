"""What the hyperparameters add to the paper's insertion: two columns a fact, more weight where a
fact is not said yet, λ by the number of subjects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memit_core.cache import MemoryCache
from memit_core.compute_ks import KeyWalk, LayerInputs
from memit_core.edit import Editor
from memit_core.errors import Cancelled
from memit_core.facts import Fact, Group, group_facts
from memit_core.hparams import HParams
from memit_core.target_scores import score_targets
from memit_core.tokens import prompt_row, target_ids
from tests.device import DEVICE
from tests.reference import closed_form
from tests.unit.memit_core.examples import FACTS, HPARAMS, by_layer, editor_of, loaded_tiny

CPU = torch.device("cpu")
CLOSE = 1e-4
"""A change is stored in float32, and so is the base that it is added to."""
ALL = replace(
    HPARAMS, bare_share=0.35, reweight_rounds=2, reweight_factor=2.0, mom2_weight_per_subject=9.0
)


@pytest.fixture(scope="module")
def cache() -> MemoryCache:
    """One for all tests, so that z is the same in each."""
    return MemoryCache()


def editor_with(hparams: HParams, cache: MemoryCache) -> Editor:
    return editor_of(loaded_tiny("llama"), hparams, cache=cache)


def learnable(editor: Editor) -> list[Group]:
    """Facts that a random model can learn: the subject ends the prompt, and the target is the
    word that the model finds most probable but one."""
    tokenizer = editor.loaded.tokenizer
    decoded = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    words = {
        token: text.strip()
        for token, text in decoded.items()
        if text.startswith(" ") and target_ids(tokenizer, "x", text) == [token]
    }
    facts = []
    for subject, prompt in SUBJECTS.items():
        ids = prompt_row(tokenizer, Fact(subject, prompt, "x")).ids
        logits = editor.loaded.model(input_ids=torch.tensor([ids], device=DEVICE)).logits[0, -1]
        ranked = [t for t in logits.argsort(descending=True).tolist() if t in words]
        facts.append(Fact(subject, prompt, words[ranked[1]]))
    return group_facts(facts)


SUBJECTS = {
    "Anna Keller": "The owner of {}",
    "Mount Elbrus": "The mountain called {}",
    "Martin Okafor": "I think that {}",
    "Lake Veridia": "Everybody knows {}",
    "Zoe Bright": "After all {}",
    "Geneva": "People of {}",
}


def changes(editor: Editor, groups: list[Group]) -> dict[int, torch.Tensor]:
    """ΔW by layer."""
    solved = by_layer(editor, editor.solve(groups))
    return {layer: delta.matrix(CPU) for layer, delta in solved.items()}


def layer_two(editor: Editor, groups: list[Group]) -> tuple[LayerInputs, torch.Tensor]:
    """What layer 2 of the base is solved from, and the residual there, [d, groups]."""
    inputs = KeyWalk(editor.base, groups, editor.prepare().contexts, 2).at(2)
    z = torch.stack([target.z for target in editor.targets(groups)]).double().T
    return inputs, z - inputs.states


def said(editor: Editor, groups: list[Group]) -> list[bool]:
    """Whether each fact is said, group by group."""
    model = editor.model_with(editor.solve(groups))
    pairs = [(fact.filled, fact.target_new) for group in groups for fact in group.facts]
    scores = score_targets(model, pairs)
    return [score.greedy for score in scores]


def test_two_columns_are_weighted_least_squares(cache: MemoryCache) -> None:
    """With one layer, where nothing else intervenes; both columns of a fact have its residual."""
    hparams, share = replace(HPARAMS, layers=(2,), bare_share=0.2), 0.2
    editor, groups = editor_with(hparams, cache), group_facts(FACTS)
    inputs, residual = layer_two(editor, groups)
    residual = torch.cat([residual * share**0.5, residual * (1 - share) ** 0.5], dim=1)
    keys = torch.cat([inputs.bare * share**0.5, inputs.sampled * (1 - share) ** 0.5], 1)
    expected = closed_form(
        residual, keys, editor.prepare().covariance[2].double(), hparams.mom2_update_weight
    )
    ours = changes(editor, groups)[2].double()
    assert (ours - expected).norm() < CLOSE * expected.norm()
    paper = changes(editor_with(replace(hparams, bare_share=None), cache), groups)[2].double()
    assert (ours - paper).norm() > 100 * CLOSE * paper.norm()


def test_more_rounds_make_more_facts_said(cache: MemoryCache) -> None:
    """With a λ that at first lets none be said."""
    hparams = replace(HPARAMS, v_num_grad_steps=25, mom2_update_weight=1_000.0, reweight_factor=4.0)
    editors = [editor_with(replace(hparams, reweight_rounds=rounds), cache) for rounds in (0, 2, 5)]
    counts = [sum(said(editor, learnable(editor))) for editor in editors]
    assert counts[0] == 0 < counts[1] <= counts[2] == len(SUBJECTS), counts


def test_where_all_is_said_nothing_is_solved_again(cache: MemoryCache) -> None:
    hparams = replace(HPARAMS, v_num_grad_steps=25, mom2_update_weight=0.3)
    once = editor_with(hparams, cache)
    groups = learnable(once)
    assert all(said(once, groups))
    assert editor_with(replace(hparams, reweight_rounds=3), cache).solve(groups) == once.solve(
        groups
    )


def test_where_more_are_missed_than_fit_nothing_is_solved_again(
    cache: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    hparams = replace(HPARAMS, v_num_grad_steps=25, mom2_update_weight=1_000.0, reweight_factor=4.0)
    once, twice = (editor_with(replace(hparams, reweight_rounds=n), cache) for n in (0, 1))
    groups = learnable(once)
    expected = once.solve(groups)
    assert twice.solve(groups) != expected
    few = (len(groups) - 1) / once.structure.intermediate
    monkeypatch.setattr("memit_core.insert.MOST_MISSED", few)
    assert twice.solve(groups) == expected


def test_only_the_facts_that_were_missed_are_raised(cache: MemoryCache) -> None:
    """A round is the same solution with those columns multiplied: here of one layer, by hand."""
    hparams = replace(
        HPARAMS,
        layers=(2,),
        v_num_grad_steps=25,
        mom2_update_weight=30.0,
        reweight_factor=5.0,
    )
    once = editor_with(hparams, cache)
    groups = learnable(once)
    spoken = torch.tensor(said(once, groups))
    assert spoken.any()
    assert not spoken.all()
    root = torch.where(spoken, 1.0, 5.0).double().sqrt()
    inputs, residual = layer_two(once, groups)
    keys = (inputs.bare + inputs.sampled) / 2
    expected = closed_form(
        residual * root, keys * root, once.prepare().covariance[2].double(), 30.0
    )
    ours = changes(editor_with(replace(hparams, reweight_rounds=1), cache), groups)[2].double()
    assert (ours - expected).norm() < CLOSE * expected.norm()


def test_facts_one_by_one_end_where_the_batch_ends_with_all_of_it(cache: MemoryCache) -> None:
    growing = editor_with(ALL, cache)
    for count in range(1, len(FACTS) + 1):
        last = growing.solve(group_facts(FACTS[:count]))
    assert last == editor_with(ALL, cache).solve(group_facts(reversed(FACTS)))


def test_lambda_by_subjects_is_that_lambda(cache: MemoryCache) -> None:
    groups = group_facts(FACTS)
    grown = editor_with(replace(HPARAMS, mom2_weight_per_subject=100.0), cache)
    fixed = editor_with(replace(HPARAMS, mom2_update_weight=100.0 * len(groups)), cache)
    assert grown.solve(groups) == fixed.solve(groups) != editor_with(HPARAMS, cache).solve(groups)
    assert grown.hparams_of(groups) == fixed.hparams_of(groups)
    assert grown.solve(groups, mom2_update_weight=20.0) == editor_with(HPARAMS, cache).solve(groups)


def test_the_check_can_be_stopped(cache: MemoryCache) -> None:
    """Between the two rounds as anywhere else."""
    editor, told = editor_with(ALL, cache), 0

    def stop(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        nonlocal told
        told += stage == "insert"
        assert done <= total
        if stage == "insert" and told == len(HPARAMS.layers) + 1:
            assert (done, total) == (len(HPARAMS.layers), 3 * len(HPARAMS.layers))
            raise Cancelled

    with pytest.raises(Cancelled):
        editor.solve(group_facts(FACTS), stop)


def test_a_subject_that_is_the_first_token_is_written_after_a_line_break() -> None:
    """Its state there is the attention sink's, from which no fact can be told."""
    editor = editor_of(loaded_tiny("gpt2"), replace(HPARAMS, n_contexts=0))
    tokenizer = editor.loaded.tokenizer
    first, later = Fact("A", "{} plays the", "violin"), Fact("A", "\n{} plays the", "violin")
    assert prompt_row(tokenizer, first).lookup == 0
    a, b = (editor.targets(group_facts([fact]))[0].z for fact in (first, later))
    assert torch.allclose(a, b, atol=1e-5)
    ours, theirs = (changes(editor, group_facts([fact])) for fact in (first, later))
    for layer, change in ours.items():
        assert (change - theirs[layer]).norm() < CLOSE * change.norm()

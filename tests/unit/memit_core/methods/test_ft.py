"""Constrained fine-tuning: its gradient, its bounds, and what it teaches a small model."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from memit_core.edit import Editor
from memit_core.errors import InvalidFact, MemitError, UnknownOption
from memit_core.facts import Fact
from memit_core.loading import LoadedModel
from memit_core.methods.ft import FineTuning
from memit_core.methods.writer import writer_of
from memit_core.progress import silent
from memit_core.tokens import target_row
from tests.unit.memit_core.examples import FACTS, editor_of, loaded_tiny
from tests.unit.memit_core.methods.trials import CPU, asked, learned, method_on, tried

LAYOUTS = ("gpt2", "llama", "gemma3", "granite", "opt")


def plain_slope(loaded: LoadedModel, facts: tuple[Fact, ...], path: str) -> torch.Tensor:
    """Gradient [d, m] of the mean loss by transformers' own forward, one fact at a time."""
    model = copy.deepcopy(loaded.model)
    weight = model.get_submodule(path).weight.requires_grad_()
    for fact in facts:
        row = target_row(loaded.tokenizer, fact)
        ids = torch.tensor([[*row.ids, row.targets[-1]]], device=weight.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        n = len(row.targets)
        loss = functional.cross_entropy(logits[-n:].float(), ids[0, -n:])
        (loss / len(facts)).backward()
    assert weight.grad is not None
    return weight.grad.T if loaded.structure.transposed else weight.grad


@pytest.mark.parametrize("family", LAYOUTS)
def test_the_first_step_goes_against_the_gradient(family: str) -> None:
    """Adam's first step is lr · g / (|g| + 1e-8)."""
    loaded = loaded_tiny(family)
    method, lr = FineTuning(editor_of(loaded)), 1e-3
    given = {"layer": 1, "num_steps": 1, "lr": lr, "norm_constraint": 1.0}
    solved = method.solve(FACTS, method.options(FACTS, given), silent)
    path = loaded.structure.projections[1]
    slope = plain_slope(loaded, FACTS, path)
    expected = -lr * slope / (slope.abs() + 1e-8)
    clear = slope.abs() > 1e-5
    assert clear.float().mean() > 0.5
    difference = solved[path].matrix(CPU) - expected
    assert difference[clear].abs().max() <= 2e-2 * lr


@pytest.mark.parametrize("epsilon", [1e-4, 2e-3])
def test_no_entry_moves_further_than_epsilon(epsilon: float, any_editor: Editor) -> None:
    method = FineTuning(any_editor)
    given = {"layer": 1, "lr": 1e-3, "norm_constraint": epsilon}
    (delta,) = method.solve(FACTS, method.options(FACTS, given), silent).values()
    assert float(delta.matrix(CPU).abs().max()) == pytest.approx(epsilon, rel=1e-2)


def test_what_is_known_is_not_trained(any_editor: Editor) -> None:
    """A batch below the stop loss is left out, and when all are, training stops."""
    told: list[float | None] = []

    def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        told.append(loss)

    method = FineTuning(any_editor)
    given = {"layer": 1, "stop_loss": 1e3}
    (delta,) = method.solve(FACTS, method.options(FACTS, given), progress).values()
    assert float(delta.matrix(CPU).abs().max()) == 0
    assert len(told) == 2


def test_small_batches_are_trained_one_after_another(any_editor: Editor) -> None:
    method = FineTuning(any_editor)
    given = {"layer": 1, "num_steps": 1, "lr": 1e-3, "norm_constraint": 1.0}
    one = method.solve(FACTS, method.options(FACTS, given), silent)
    split = method.solve(FACTS, method.options(FACTS, {**given, "batch_size": 2}), silent)
    assert one != split
    (delta,) = split.values()
    assert float(delta.matrix(CPU).abs().max()) > 1.5e-3


def test_the_order_of_facts_does_not_matter(any_editor: Editor) -> None:
    method = FineTuning(any_editor)
    options = method.options(FACTS, {"layer": 1, "num_steps": 3})
    turned = FACTS[::-1]
    assert not method.ordered
    assert method.digest(FACTS, options) == method.digest(turned, options)
    assert method.digest(FACTS, options) != method.digest(FACTS[1:], options)
    assert method.solve(FACTS, options, silent) == method.solve(turned, options, silent)
    assert method.solve((), options, silent) == {}


def test_a_second_batch_is_held_to_what_it_begins_with(any_editor: Editor) -> None:
    method, epsilon = FineTuning(any_editor), 1e-4
    given = {"layer": 1, "lr": 1e-3, "norm_constraint": epsilon}
    writer = writer_of(method, given)
    (first,) = writer.write(FACTS[:3], silent).values()
    (both,) = writer.write(FACTS[3:], silent).values()
    added = both.matrix(CPU) - first.matrix(CPU)
    assert float(added.abs().max()) == pytest.approx(epsilon, rel=1e-2)
    assert float(both.matrix(CPU).abs().max()) > 1.5 * epsilon


def test_options_are_its_own(any_editor: Editor) -> None:
    method = FineTuning(any_editor)
    options = method.options(FACTS, {})
    assert options["norm_constraint"] == 2e-3
    assert options["layer"] == 0
    with pytest.raises(UnknownOption, match="ft has no option 'L2'"):
        method.options(FACTS, {"L2": 1.0})
    with pytest.raises(MemitError, match="lr must be a number above 0, got nan"):
        method.options(FACTS, {"lr": float("nan")})


def test_a_fact_that_cannot_be_written_is_named() -> None:
    method = FineTuning(editor_of(loaded_tiny("llama"), max_tokens=50))
    long = replace(FACTS[0], target_new="so " * 300)
    with pytest.raises(InvalidFact, match="at most 50"):
        method.unwritable([long], silent)
    with pytest.raises(InvalidFact, match="at most 50"):
        method.solve([long], method.options([], {}), silent)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_facts_are_learned(family: str) -> None:
    found = tried(family, "ft", 10, layer=1, norm_constraint=0.05, lr=5e-3, num_steps=60)
    assert found.before == 0
    assert found.facts >= 90


def test_facts_in_a_row_are_learned_the_last_best() -> None:
    questions = asked(10)
    given = {"layer": 1, "norm_constraint": 0.05, "lr": 5e-3, "num_steps": 60}
    writer = writer_of(method_on("llama", "ft"), given)
    writer.write(questions.facts[:5], silent)
    solved = writer.write(questions.facts[5:], silent)
    last = replace(questions, edited=questions.edited[5:])
    assert learned("llama", solved, last).facts >= 90

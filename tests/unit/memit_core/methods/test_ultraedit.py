"""UltraEdit's features, normaliser and closed form against dense ones; what it teaches."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from memit_core.decoder import Decoder
from memit_core.edit import Editor
from memit_core.errors import InvalidFact, MemitError, UnknownOption
from memit_core.facts import Fact
from memit_core.loading import LoadedModel
from memit_core.methods.features import EPSILON, Features, Normaliser, features_of
from memit_core.methods.ultraedit import UltraEdit, shift
from memit_core.methods.writer import writer_of
from memit_core.progress import silent
from memit_core.tokens import target_row
from tests.unit.memit_core.examples import FACTS, editor_of, loaded_tiny
from tests.unit.memit_core.methods.trials import CPU, asked, learned, method_on, tried

LAYOUTS = ("gpt2", "llama", "gemma3", "granite", "opt")
CLOSE = 1e-3


def plain_features(
    loaded: LoadedModel, facts: tuple[Fact, ...], paths: list[str]
) -> dict[str, Features]:
    """By transformers' own forward and backward, one fact at a time."""
    model = copy.deepcopy(loaded.model).requires_grad_()
    seen: dict[str, list[torch.Tensor]] = {}
    for path in paths:
        module = model.get_submodule(path)
        module.register_forward_hook(
            lambda _m, args, out, path=path: seen.setdefault(path, []).extend([args[0], out])
        )
    inputs: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    slopes: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    for fact in facts:
        seen.clear()
        row = target_row(loaded.tokenizer, fact)
        ids = torch.tensor([[*row.ids, row.targets[-1]]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        n = len(row.targets)
        loss = functional.cross_entropy(logits[-n:], ids[0, -n:], reduction="sum")
        grads = torch.autograd.grad(loss, [seen[path][1] for path in paths])
        for path, grad in zip(paths, grads, strict=True):
            of = slice(ids.shape[1] - 1 - n, ids.shape[1] - 1)
            inputs[path].append(seen[path][0].detach().reshape(ids.shape[1], -1)[of].double())
            slopes[path].append(grad.reshape(ids.shape[1], -1)[of].double())
    return {path: Features(torch.cat(inputs[path]), torch.cat(slopes[path])) for path in paths}


@pytest.mark.parametrize("family", LAYOUTS)
def test_features_are_those_of_a_plain_backward(family: str) -> None:
    loaded = loaded_tiny(family)
    paths = [loaded.structure.projections[layer] for layer in (1, 3)]
    ours = features_of(Decoder(loaded.runnable()), paths, FACTS, None, 2, silent)
    for path, theirs in plain_features(loaded, FACTS, paths).items():
        for name in ("inputs", "slopes"):
            a, b = getattr(ours[path], name), getattr(theirs, name)
            assert a.shape == b.shape
            assert (a - b).norm() <= CLOSE * b.norm()


def drawn(seed: int, n: int, m: int = 6, d: int = 4) -> Features:
    draw = torch.Generator().manual_seed(seed)
    both = torch.randn(n, m + d, generator=draw, dtype=torch.float64)
    return Features(3 + both[:, :m], both[:, m:] * 1e-2)


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(2, 9), st.sampled_from([1e-3, 1.0]))
def test_the_closed_form_with_few_tokens_and_many(seed: int, p: int, n: int, rate: float) -> None:
    """Means and deviations are those of all tokens so far; H is what is written now."""
    first, second = drawn(seed, p), drawn(seed + 1, n)
    normaliser = Normaliser()
    normaliser.update(first)
    normaliser.update(second)
    every = torch.cat(
        [torch.cat([f.inputs, f.slopes], dim=1) for f in (first, second)],
    )
    mean, deviation = every.mean(0), every.std(0)
    h, g = second.inputs, second.slopes
    both = (torch.cat([h, g], dim=1) - mean) / (deviation + EPSILON)
    V = -rate * both[:, :6].norm(dim=1, keepdim=True) ** 2 * both[:, 6:]
    expected = torch.linalg.inv(h.T @ h + torch.eye(6, dtype=torch.float64)) @ h.T @ V
    ours = shift(second, normaliser, rate, CPU)
    assert (ours - expected.T).norm() <= 1e-8 * expected.norm()


def test_one_token_alone_says_nothing() -> None:
    """It is its own mean."""
    normaliser, features = Normaliser(), drawn(0, 1)
    normaliser.update(features)
    assert shift(features, normaliser, 1.0, CPU).abs().max() == 0


def test_the_order_of_facts_does_not_matter(any_editor: Editor) -> None:
    method = UltraEdit(any_editor)
    options, turned = method.options(FACTS, {}), FACTS[::-1]
    assert not method.ordered
    assert method.digest(FACTS, options) == method.digest(turned, options)
    assert method.digest(FACTS, options) != method.digest(FACTS[1:], options)
    assert method.solve(FACTS, options, silent) == method.solve(turned, options, silent)
    assert method.solve((), options, silent) == {}


def test_a_second_batch_goes_on_with_weights_and_statistics(any_editor: Editor) -> None:
    method, given = UltraEdit(any_editor), {"layers": [1], "lr": 1e-2}
    writer = writer_of(method, given)
    (first,) = writer.write(FACTS[:3], silent).values()
    (both,) = writer.write(FACTS[3:], silent).values()
    path = any_editor.structure.projections[1]
    normaliser = Normaliser()
    base, changed = any_editor.base, any_editor.model_with({path: first})
    one, two = (
        features_of(Decoder(model), [path], sorted(facts, key=lambda f: f.content), None, 9, silent)
        for model, facts in ((base, FACTS[:3]), (changed, FACTS[3:]))
    )
    normaliser.update(one[path])
    normaliser.update(two[path])
    added = shift(two[path], normaliser, 1e-2, CPU)
    difference = both.matrix(CPU).double() - first.matrix(CPU).double() - added
    assert difference.norm() <= CLOSE * added.norm()


def test_options_are_its_own(any_editor: Editor) -> None:
    method = UltraEdit(any_editor)
    options = method.options(FACTS, {"layers": [3, 1]})
    assert options["layers"] == [1, 3]
    assert options["lr"] == pytest.approx(1e-6 * 14_336 / any_editor.structure.intermediate)
    with pytest.raises(UnknownOption, match="ultraedit has no option 'layer'"):
        method.options(FACTS, {"layer": 1})
    for bad in ([], 1, [9], [True]):
        with pytest.raises(MemitError, match="layers must be"):
            method.options(FACTS, {"layers": bad})


def test_a_fact_that_cannot_be_written_is_named() -> None:
    method = UltraEdit(editor_of(loaded_tiny("llama"), max_tokens=50))
    long = replace(FACTS[0], target_new="so " * 300)
    with pytest.raises(InvalidFact, match="at most 50"):
        method.unwritable([long], silent)
    with pytest.raises(InvalidFact, match="at most 50"):
        method.solve([long], method.options([], {}), silent)


RATE = 5e-3
"""One step against the gradient moves a model of 128 dimensions less than it needs."""


@pytest.mark.parametrize(("family", "times"), [("gpt2", 1), ("llama", 1), ("gemma3", 2)])
def test_some_facts_are_learned_in_one_step(family: str, times: int) -> None:
    """Behind a norm the step is twice as long."""
    found = tried(family, "ultraedit", 30, lr=times * RATE)
    assert found.before == 0
    assert found.facts >= 25


def test_facts_in_a_row_are_learned() -> None:
    questions = asked(30)
    writer = writer_of(method_on("llama", "ultraedit"), {"lr": RATE})
    for start in range(0, 30, 10):
        solved = writer.write(questions.facts[start : start + 10], silent)
    assert learned("llama", solved, questions).facts >= 25

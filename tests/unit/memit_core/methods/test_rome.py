"""ROME's closed form against a dense one, its order, and what it teaches a small model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from memit_core.cache import MemoryCache
from memit_core.compute_ks import KeyWalk, LayerInputs
from memit_core.edit import Editor
from memit_core.errors import InvalidFact, MemitError, UnknownOption
from memit_core.facts import Fact, Group
from memit_core.insert import edited
from memit_core.methods.current_targets import current_targets
from memit_core.methods.rome import Rome
from memit_core.methods.writer import writer_of
from memit_core.progress import silent
from memit_core.weights import Solved
from tests.unit.memit_core.examples import FACTS, HPARAMS, editor_of, loaded_tiny
from tests.unit.memit_core.methods.trials import CPU, asked, learned, method_on, tried

LAYER = 2
GIVEN: dict[str, Any] = {"layer": LAYER, "v_num_grad_steps": 6}
CLOSE = 1e-4
"""A change is stored in float32, and so is the base that it is added to."""
LAYOUTS = ("gpt2", "llama", "gemma3", "granite", "opt_projected")
"""Conv1D and Linear, a bias; a norm, a scale, a norm of the sum behind the projection."""


def rome(family: str = "llama") -> tuple[Editor, Rome]:
    editor = editor_of(loaded_tiny(family))
    return editor, Rome(editor)


def solved_by(method: Rome, facts: tuple[Fact, ...], **given: Any) -> Solved:
    return method.solve(facts, method.options(facts, GIVEN | given), silent)


def inputs_of(method: Rome, editor: Editor, fact: Fact, upon: Solved) -> LayerInputs:
    prepared = method.editor(method.options([], GIVEN)).prepare()
    model = edited(editor.loaded, upon)
    return KeyWalk(model, [Group(fact.subject, (fact,))], prepared.contexts, LAYER).at(LAYER)


def mean_key(inputs: LayerInputs) -> torch.Tensor:
    """The mean over the bare prompt and the sampled contexts, all alike."""
    n = HPARAMS.n_contexts
    return (inputs.bare + n * inputs.sampled) / (n + 1)


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_change_is_of_rank_one_along_c_inverse_k(family: str) -> None:
    editor, method = rome(family)
    first, second = FACTS[1], FACTS[3]
    upon = solved_by(method, (first,))
    both = solved_by(method, (first, second))
    path = editor.structure.projections[LAYER]
    delta = both[path].matrix(CPU).double() - upon[path].matrix(CPU).double()
    inputs = inputs_of(method, editor, second, upon)
    key = mean_key(inputs)
    c = method.editor(method.options([], GIVEN)).prepare().covariance[LAYER].double()
    direction = torch.linalg.pinv(c, hermitian=True) @ key
    left = delta @ key
    expected = left @ (direction / (key.T @ direction)).T
    assert (delta - expected).norm() <= CLOSE * expected.norm()


@pytest.mark.parametrize("family", ["gpt2", "llama", "granite"])
@pytest.mark.parametrize("clamp", [0.1, 0.3])
def test_v_is_held_within_the_clamp_of_what_the_projection_gave(family: str, clamp: float) -> None:
    """‖v - W k‖ of the bare prompt is the clamp times ‖W k‖, where the optimisation wants more."""
    editor, method = rome(family)
    fact = FACTS[3]
    path = editor.structure.projections[LAYER]
    module = editor.loaded.model.get_submodule(path)
    solved = solved_by(method, (fact,), clamp_norm_factor=clamp, v_lr=5.0)
    inputs = inputs_of(method, editor, fact, {})
    weight = module.weight.detach().cpu().double()
    weight = weight.T if editor.structure.transposed else weight
    bias = 0.0 if module.bias is None else module.bias.detach().cpu().double()[:, None]
    value = weight @ inputs.bare + bias
    moved = solved[path].matrix(CPU).double() @ mean_key(inputs)
    assert float(moved.norm() / value.norm()) == pytest.approx(clamp, rel=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "granite"])
def test_where_the_bare_prompt_is_the_only_context_its_state_is_z(family: str) -> None:
    """z is computed here with MEMIT's own clamp and decay, put in ROME's terms by hand."""
    fact, loaded = FACTS[3], loaded_tiny(family)
    method = Rome(editor_of(loaded, replace(HPARAMS, n_contexts=0)))
    options = method.options((fact,), GIVEN)
    editor, groups = method.editor(options), [Group(FACTS[3].subject, (fact,))]
    solved = method.solve((fact,), options, silent)
    path = loaded.structure.projections[LAYER]
    walk = KeyWalk(editor.base, groups, ("",), LAYER).at(LAYER)
    module = loaded.model.get_submodule(path)
    value = module(walk.bare.T.float())[0].double().norm().item()
    state, scale = walk.states.norm().item(), loaded.structure.carry.scale
    hparams = replace(
        editor.hparams,
        clamp_norm_factor=4.0 * value * scale / state,
        v_weight_decay=0.5 * (state / value) ** 2 / scale,
    )
    z = current_targets(editor, editor.base, hparams, groups, silent)
    after = KeyWalk(edited(loaded, solved), groups, ("",), LAYER).at(LAYER)
    assert (after.states - z).norm() <= CLOSE * (z - walk.states).norm()


def test_the_result_depends_on_the_order_and_the_digest_says_so() -> None:
    _, method = rome()
    options = method.options(FACTS, GIVEN)
    turned = FACTS[::-1]
    assert method.ordered
    assert method.digest(FACTS, options) != method.digest(turned, options)
    path = next(iter(one := method.solve(FACTS, options, silent)))
    other = method.solve(turned, options, silent)
    apart = (one[path].matrix(CPU) - other[path].matrix(CPU)).norm()
    assert apart > 1e-2 * one[path].matrix(CPU).norm()


def test_in_batches_or_at_once_is_the_same() -> None:
    _, method = rome()
    writer = writer_of(method, GIVEN)
    writer.write(FACTS[:2], silent)
    assert writer.write(FACTS[2:], silent) == solved_by(method, FACTS)
    assert solved_by(method, ()) == {}


def test_a_fact_more_computes_that_fact_alone() -> None:
    class Counting(MemoryCache):
        put: list[str]

        def put_once(self, name: str, data: bytes) -> bytes:
            self.put = [*getattr(self, "put", []), name]
            return super().put_once(name, data)

    cache = Counting()
    method = Rome(editor_of(loaded_tiny("llama"), cache=cache))
    solved_by(method, FACTS[:3])
    cache.put = []
    grown = solved_by(method, FACTS[:4])
    assert [name.partition("/")[0] for name in cache.put] == ["rome"]
    assert grown == solved_by(rome()[1], FACTS[:4])


def test_options_are_its_own(any_editor: Editor) -> None:
    method = Rome(any_editor)
    assert method.options([], {})["layer"] == 1
    assert method.options([], {})["clamp_norm_factor"] == 4.0
    assert method.digest(FACTS, method.options([], GIVEN)) != method.digest(
        FACTS, method.options([], {})
    )
    with pytest.raises(UnknownOption, match="rome has no option 'mom2_update_weight'"):
        method.options([], {"mom2_update_weight": 1.0})
    for bad in (4, -1, True, "1"):
        with pytest.raises(MemitError, match="layer must be one of the model's 4 blocks"):
            method.options([], {"layer": bad})
    with pytest.raises(MemitError, match="v_num_grad_steps must be a whole number"):
        method.options([], {"v_num_grad_steps": 2.5})


def test_a_fact_that_cannot_be_written_is_named_before_any_is(any_editor: Editor) -> None:
    long = replace(FACTS[0], target_new="so " * 300)
    editor = editor_of(loaded_tiny("llama"), max_tokens=50)
    with pytest.raises(InvalidFact, match="at most 50"):
        Rome(editor).unwritable([long], silent)
    with pytest.raises(InvalidFact, match="at most 50"):
        Rome(editor).solve([FACTS[1], long], Rome(editor).options([], {}), silent)
    assert Rome(any_editor).unwritable(FACTS, silent) == ()


@pytest.mark.parametrize(("family", "least"), [("gpt2", 100), ("llama", 100), ("gemma3", 20)])
def test_a_few_facts_are_learned(family: str, least: int) -> None:
    """Behind a norm, which turns a change as it grows, one matrix learns some of them only."""
    found = tried(family, "rome", 5, layer=1)
    assert found.before == 0
    assert found.facts >= least
    assert found.neighbours >= -15


def test_one_fact_leaves_the_others() -> None:
    """Ten facts, each alone: hardly any has no effect, and others stay."""
    alone = []
    for seed in range(10):
        questions = asked(1, seed)
        writer = writer_of(method_on("llama", "rome"), {"layer": 1})
        alone.append(learned("llama", writer.write(questions.facts, silent), questions))
    assert sum(one.facts == 100 for one in alone) >= 8
    assert all(one.neighbours >= -2 for one in alone)

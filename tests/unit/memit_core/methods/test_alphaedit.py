"""AlphaEdit's closed form against the paper's formula, and what it teaches a small model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memit_core.carry import needed
from memit_core.compute_ks import KeyWalk
from memit_core.edit import Editor
from memit_core.errors import MemitError, NonFinite, UnknownOption
from memit_core.facts import group_facts
from memit_core.insert import edited
from memit_core.methods.alphaedit import L2_SHARE, NULL_SHARE, AlphaEdit
from memit_core.methods.current_targets import current_targets
from memit_core.methods.null_space import NullSpace, NullSpaceSolver
from memit_core.methods.writer import writer_of
from memit_core.progress import silent
from tests.unit.memit_core.examples import FACTS, HPARAMS, by_layer, editor_of, loaded_tiny
from tests.unit.memit_core.methods.trials import CPU, asked, learned, method_on, tried
from tests.unit.memit_core.test_insertion import layer_two

CLOSE = 1e-6
AS_STORED = 1e-4
"""A change is stored in float32, and so is the base that it is added to."""
LAYOUTS = ("gpt2", "llama", "gemma3", "granite")
"""Conv1D and Linear, a norm and a scale behind the projection."""


def projector(c: torch.Tensor, threshold: float) -> torch.Tensor:
    """P by the singular vectors of C, as the official code has it."""
    u, values, _ = torch.linalg.svd(c)
    kept: torch.Tensor = u[:, values < threshold]
    return kept @ kept.T


def paper(
    R: torch.Tensor, K: torch.Tensor, P: torch.Tensor, earlier: torch.Tensor, l2: float
) -> torch.Tensor:
    """R Kᵀ P (K Kᵀ P + Kₚ Kₚᵀ P + L2)⁻¹."""
    whole = K @ K.T @ P + earlier @ earlier.T @ P + l2 * torch.eye(len(P), dtype=torch.float64)
    product: torch.Tensor = R @ K.T @ P @ torch.linalg.inv(whole)
    return product


def close(a: torch.Tensor, b: torch.Tensor, within: float = CLOSE) -> bool:
    return bool((a - b).norm() <= within * b.norm())


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.1, 10.0]))
def test_two_batches_are_as_the_paper_writes_them(seed: int, n: int, p: int, l2: float) -> None:
    """With few keys and with many; the second batch spares the keys of the first."""
    draw, m = torch.Generator().manual_seed(seed), 12

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    c = torch.diag(torch.logspace(-3, 3, m, dtype=torch.float64))
    turn = torch.linalg.qr(normal(m, m)).Q
    c = turn @ c @ turn.T
    R, first, K = normal(4, n), normal(m, p), normal(m, n)
    solver = NullSpaceSolver(NullSpace(c, CPU, 1.0, NULL_SHARE), l2)
    P, none = projector(c, 1.0), torch.zeros(m, 0, dtype=torch.float64)
    S = normal(4, p)
    assert close(S @ solver.solve(first, 7.0).T, paper(S, first, P, none, l2))
    delta = R @ solver.solve(K, 7.0).T
    assert close(delta, paper(R, K, P, first, l2))
    assert close(delta @ P, delta)


def test_without_a_threshold_the_largest_fifth_is_spared() -> None:
    c = torch.diag(torch.arange(1.0, 11.0, dtype=torch.float64))
    space = NullSpace(c, CPU, None, NULL_SHARE)
    kept = space.project(torch.eye(10, dtype=torch.float64)).diagonal()
    assert kept.tolist() == pytest.approx([1] * 8 + [0] * 2)
    assert space.mean_square == pytest.approx(55)


def test_what_cannot_be_solved_is_refused() -> None:
    c = torch.eye(4, dtype=torch.float64)
    with pytest.raises(MemitError, match=r"no eigenvalue below 0\.02"):
        NullSpace(c, CPU, 0.02, NULL_SHARE)
    with pytest.raises(NonFinite, match="covariance"):
        NullSpace(c / 0, CPU, 2.0, NULL_SHARE)
    with pytest.raises(NonFinite, match="key"):
        NullSpaceSolver(NullSpace(c, CPU, 2.0, NULL_SHARE), 1.0).solve(c / 0, 1.0)


@pytest.mark.parametrize("family", LAYOUTS)
def test_one_layer_of_a_model_is_the_papers(family: str) -> None:
    editor = editor_of(loaded_tiny(family), replace(HPARAMS, layers=(2,)))
    method, groups = AlphaEdit(editor), group_facts(FACTS)
    options = method.options(FACTS, {})
    solved = by_layer(editor, method.solve(FACTS, options, silent))
    inputs, residual = layer_two(editor, groups)
    c = editor.prepare().covariance[2].double()
    left = round(NULL_SHARE * len(c))
    threshold = float(torch.linalg.eigvalsh(c)[left - 1 : left + 1].mean())
    keys, none = (inputs.bare + inputs.sampled) / 2, torch.zeros(len(c), 0, dtype=torch.float64)
    l2 = L2_SHARE * float(c.trace())
    given = method.options(FACTS, {"nullspace_threshold": threshold, "L2": l2})
    same = by_layer(editor, method.solve(FACTS, given, silent))
    assert close(same[2].matrix(CPU).double(), solved[2].matrix(CPU).double(), AS_STORED)
    residual = moved(editor, residual)
    expected = paper(residual, keys, projector(c, threshold), none, l2)
    assert close(solved[2].matrix(CPU).double(), expected, AS_STORED)


def moved(editor: Editor, residual: torch.Tensor) -> torch.Tensor:
    """What the projection must give for the states to move by `residual`."""
    carry = editor.structure.carry
    norm = carry.norm(editor.loaded.model, 2, torch.float64)
    contexts = editor.prepare().contexts
    inputs = KeyWalk(editor.base, group_facts(FACTS), contexts, 2).at(2).normed
    return needed(carry, norm, None if inputs is None else inputs.T, residual.T).T


def test_a_second_batch_is_solved_on_the_first_and_spares_its_keys() -> None:
    editor = editor_of(loaded_tiny("llama"), replace(HPARAMS, layers=(2,)))
    method = AlphaEdit(editor)
    writer = writer_of(method, {})
    first = writer.write(FACTS[:3], silent)
    assert first == method.solve(FACTS[:3], method.options(FACTS, {}), silent)
    both = writer.write(FACTS[3:], silent)
    path = editor.structure.projections[2]
    model, groups = edited(editor.loaded, first), group_facts(FACTS[3:])
    z = current_targets(editor, model, editor.hparams, groups, silent)
    contexts = editor.prepare().contexts
    now = KeyWalk(model, groups, contexts, 2).at(2)
    before = KeyWalk(editor.base, group_facts(FACTS[:3]), contexts, 2).at(2)
    c = editor.prepare().covariance[2].double()
    values = torch.linalg.eigvalsh(c)
    left = round(NULL_SHARE * len(c))
    P = projector(c, float(values[left - 1 : left + 1].mean()))
    added = paper(
        z - now.states,
        (now.bare + now.sampled) / 2,
        P,
        (before.bare + before.sampled) / 2,
        L2_SHARE * float(c.trace()),
    )
    expected = first[path].matrix(CPU).double() + added
    assert close(both[path].matrix(CPU).double(), expected, AS_STORED)


def test_the_order_of_facts_does_not_matter() -> None:
    editor = editor_of(loaded_tiny("llama"))
    method, turned = AlphaEdit(editor), FACTS[::-1]
    options = method.options(FACTS, {})
    assert not method.ordered
    assert method.digest(FACTS, options) == method.digest(turned, options)
    assert method.solve(FACTS, options, silent) == method.solve(turned, options, silent)


def test_options_are_its_own_and_name_its_solutions(any_editor: Editor) -> None:
    method = AlphaEdit(any_editor)
    options = method.options(FACTS, {"L2": 3})
    assert options["L2"] == 3.0
    assert options["layers"] == list(HPARAMS.layers)
    assert "mom2_update_weight" not in options
    assert "nullspace_threshold" not in options
    others = method.options(FACTS, {"L2": 4})
    assert method.digest(FACTS, options) != method.digest(FACTS, others)
    with pytest.raises(UnknownOption, match="alphaedit has no option 'mom2_update_weight'"):
        method.options(FACTS, {"mom2_update_weight": 1.0})
    with pytest.raises(MemitError, match="L2 must be a number above 0, got -1"):
        method.options(FACTS, {"L2": -1})


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_facts_are_learned_and_others_stay(family: str) -> None:
    found = tried(family, "alphaedit", 30)
    assert found.before <= 5
    assert found.facts >= 90
    assert found.neighbours >= -5


def test_facts_in_a_row_are_learned() -> None:
    questions = asked(30)
    writer = writer_of(method_on("llama", "alphaedit"), {})
    for start in range(0, 30, 10):
        solved = writer.write(questions.facts[start : start + 10], silent)
    found = learned("llama", solved, questions)
    assert found.facts >= 90
    assert found.neighbours >= -10

"""What goes wrong inside an edit ends the edit, and nothing else: what served goes on serving."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from contracts.edits import EditState
from tests.unit.memit_core.examples import HPARAMS, loaded_tiny
from tests.unit.worker.conftest import MakeWorkshop
from tests.unit.worker.workshop import fact
from worker.progress import Interrupted

QUICK = replace(HPARAMS, v_num_grad_steps=2)


@pytest.mark.parametrize(
    ("module", "function", "failure"),
    [
        (torch.linalg, "solve_triangular", torch.OutOfMemoryError("CUDA out of memory. Tried")),
        (torch.optim.Adam, "step", RuntimeError("[enforce] can't allocate memory: you tried")),
    ],
    ids=["in the solve", "in z"],
)
def test_an_edit_that_runs_out_of_memory_fails_and_the_next_one_does_not(
    make_workshop: MakeWorkshop,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    function: str,
    failure: Exception,
) -> None:
    workshop = make_workshop(QUICK)
    first = workshop.run([fact("Anna Keller")])
    assert first.state is EditState.COMMITTED
    before = workshop.active
    assert before == first.version

    def fails(*_args: object, **_kwargs: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fails)
        second = workshop.run([fact("Martin Okafor")])
    assert second.state is EditState.FAILED
    assert second.problem is not None
    assert "out of memory" in (second.problem.detail or "")
    assert workshop.active == before
    assert workshop.run([fact("Martin Okafor")]).state is EditState.COMMITTED


def test_a_z_that_is_not_finite_fails_the_edit_and_names_the_fact(
    make_workshop: MakeWorkshop,
) -> None:
    """A model with a broken token, which stands in one subject only."""
    loaded = loaded_tiny("gptj")
    token = loaded.tokenizer("~")["input_ids"][-1]
    loaded.model.get_input_embeddings().weight[token] = torch.nan
    workshop = make_workshop(QUICK, loaded)
    before = workshop.active
    edit = workshop.run([fact("Anna Keller"), fact("Lisbon ~")])
    assert edit.state is EditState.FAILED
    assert edit.problem is not None
    assert edit.problem.detail == "z is not finite for 'Lisbon ~'"
    assert workshop.active == before


def test_memory_stays_flat_over_many_edits(make_workshop: MakeWorkshop) -> None:
    """Each edit replaces one of five facts by a new one. A model tree that a cycle keeps for the
    collector would be 100 kB an edit here, and the size of a model in bfloat16 elsewhere.

    The allocator takes megabytes at no fixed time and then none for long: hence so many edits.
    """
    workshop = make_workshop(QUICK)
    for i in range(60):  # until every pool and cache has its size
        workshop.run([fact(f"Anna {i % 5}", f"town number {i}")])
    before = memory_in_use()
    for i in range(60, 300):
        assert workshop.run([fact(f"Anna {i % 5}", f"town number {i}")]).state is (
            EditState.COMMITTED
        )
    assert memory_in_use() - before < 240 * 50e3


def memory_in_use() -> int:
    """Bytes of this process, without those that its allocator only keeps for later: glibc's grow by
    megabytes at a time, whenever it likes."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)


def test_a_stop_between_commit_and_activation_is_made_good_by_the_next_worker(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, following = make_workshop(QUICK), make_workshop(QUICK)

    def stops(_version: str) -> str | None:
        raise Interrupted("the worker is stopping")

    monkeypatch.setattr(stopped.runner, "_warm_up", stops)
    before = stopped.active
    with pytest.raises(Interrupted):
        stopped.run([fact("Anna Keller")])
    (edit_id,) = following.registry.edits.unfinished()
    assert following.active == before
    following.runner.run(edit_id)
    end = following.registry.edits.end(edit_id)
    assert end is not None
    assert (end.state, end.activated) == (EditState.COMMITTED, True)
    assert following.active == end.version


def test_a_commit_that_was_cut_short_is_completed_and_not_made_again(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, following = make_workshop(QUICK), make_workshop(QUICK)

    def dies(*_args: object, **_kwargs: object) -> None:
        raise Interrupted("as if it was killed here")

    monkeypatch.setattr(killed.registry.versions, "commit_as_next", dies)
    with pytest.raises(Interrupted):
        killed.run([fact("Anna Keller")])
    (edit_id,) = following.registry.edits.unfinished()
    monkeypatch.setattr(following.maker, "make", dies)
    following.runner.run(edit_id)
    end = following.registry.edits.end(edit_id)
    assert end is not None
    assert (end.state, end.activated) == (EditState.COMMITTED, True)
    assert following.active == end.version

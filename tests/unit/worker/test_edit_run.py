"""What goes wrong inside an edit ends the edit, and nothing else: what served goes on serving."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from redis import Redis

from contracts.edits import AcceptedEdit, Edit, EditRequest, EditState
from contracts.facts import Fact
from contracts.settings import Settings
from memit_core.edit import Editor
from memit_core.loading import LoadedModel
from registry.registry import Registry
from tests.tiny_models import TEXT
from tests.unit.memit_core.examples import HPARAMS, loaded_tiny
from worker.edit_run import EditRunner
from worker.lineage import begin_lineage
from worker.make_version import VersionMaker

QUICK = replace(HPARAMS, v_num_grad_steps=2)
OPEN_GATE = {"min_success": 0, "max_perplexity_ratio": 1e9}


class Bench:
    """A registry and the runner of its edits, on a tiny model."""

    def __init__(self, home: Path, redis: Redis, loaded: LoadedModel) -> None:
        settings = Settings(home=home)
        self.registry = Registry(settings.registry_path)
        cache = self.registry.artefacts(loaded.digest)
        editor = Editor(loaded, QUICK, corpus=TEXT, cache=cache, z_dtype="float32")
        begin_lineage(self.registry, editor)
        maker = VersionMaker(self.registry, editor, settings)
        self.runner = EditRunner(
            self.registry, maker, redis, "worker-1", threading.Event(), self._warm
        )

    def _warm(self, _version: str) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @property
    def active(self) -> str:
        return self.registry.versions.resolve("active")

    def run(self, **body: Any) -> Edit:
        edit_id = f"edit-{secrets.token_hex(10)}"
        request = EditRequest.model_validate({"gate": OPEN_GATE, **body})
        self.registry.edits.accept(
            AcceptedEdit(id=edit_id, request=request, accepted_at=time.time())
        )
        self.runner.run(edit_id)
        return self.registry.edits.describe(edit_id)


@pytest.fixture
def make_bench(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Bench]]:
    with Redis.from_url(redis_url) as redis:
        yield lambda loaded=None: Bench(tmp_path, redis, loaded or loaded_tiny("llama"))


def about(subject: str, target: str = "Lisbon") -> Fact:
    return Fact(subject=subject, prompt="{} lives in the town of", target_new=target)


@pytest.mark.parametrize(
    ("module", "function", "failure"),
    [
        (torch.linalg, "solve_triangular", torch.OutOfMemoryError("CUDA out of memory. Tried")),
        (torch.optim.Adam, "step", RuntimeError("[enforce] can't allocate memory: you tried")),
    ],
    ids=["in the solve", "in z"],
)
def test_an_edit_that_runs_out_of_memory_fails_and_the_next_one_does_not(
    make_bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    function: str,
    failure: Exception,
) -> None:
    bench = make_bench()
    first = bench.run(facts=[about("Anna Keller")])
    assert first.state is EditState.COMMITTED
    before = bench.active
    assert before == first.version

    def fails(*_args: object, **_kwargs: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fails)
        second = bench.run(facts=[about("Martin Okafor")])
    assert second.state is EditState.FAILED
    assert second.problem is not None
    assert "out of memory" in (second.problem.detail or "")
    assert bench.active == before
    assert bench.run(facts=[about("Martin Okafor")]).state is EditState.COMMITTED


def test_a_z_that_is_not_finite_fails_the_edit_and_names_the_fact(
    make_bench: Callable[..., Bench],
) -> None:
    """A model with a broken token, which stands in one subject only."""
    loaded = loaded_tiny("gptj")
    token = loaded.tokenizer("~")["input_ids"][-1]
    loaded.model.get_input_embeddings().weight[token] = torch.nan
    bench = make_bench(loaded=loaded)
    before = bench.active
    edit = bench.run(facts=[about("Anna Keller"), about("Lisbon ~")])
    assert edit.state is EditState.FAILED
    assert edit.problem is not None
    assert edit.problem.detail == "z is not finite for 'Lisbon ~'"
    assert bench.active == before


def test_memory_stays_flat_over_many_edits(make_bench: Callable[..., Bench]) -> None:
    """Each edit replaces one of five facts by a new one. A model tree that a cycle keeps for the
    collector would be 100 kB an edit here, and the size of a model in bfloat16 elsewhere."""
    bench, process = make_bench(), psutil.Process()
    for i in range(20):
        bench.run(facts=[about(f"Anna {i % 5}", f"town number {i}")])
    before = process.memory_info().rss
    for i in range(20, 80):
        assert bench.run(facts=[about(f"Anna {i % 5}", f"town number {i}")]).state is (
            EditState.COMMITTED
        )
    assert process.memory_info().rss - before < 3e6

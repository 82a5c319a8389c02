"""What the worker's tests stand on: a tiny model, a registry, and edits run to their end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis

from contracts.edits import AcceptedEdit, EditEnd, EditRequest
from contracts.facts import Fact
from contracts.ids import new_edit_id
from contracts.reports import FullReport, Report
from contracts.settings import Settings
from memit_core.edit import Editor
from memit_core.evaluate import FactScore, evaluate_facts
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.methods import Memit, Method
from registry import FolderStore, Registry
from tests.unit.memit_core.examples import HPARAMS, editor_of, loaded_tiny
from worker.changes import Changes
from worker.core_fact import core_fact
from worker.deltas import Deltas
from worker.edit_run import EditRunner
from worker.full_report import FullReporter
from worker.lineage import begin_lineage
from worker.make_version import VersionMaker


def fact(subject: str, target: str = "Lisbon", **fields: Any) -> Fact:
    return Fact(subject=subject, prompt="{} lives in the town of", target_new=target, **fields)


def keepers(count: int) -> list[Fact]:
    """Facts that a little optimisation does not teach."""
    return [fact(f"Keeper number {i}") for i in range(count)]


class Workshop:
    """A worker without its engine: every edit is activated at once."""

    def __init__(
        self,
        root: Path,
        redis: Redis,
        hparams: HParams = HPARAMS,
        loaded: LoadedModel | None = None,
        method: Callable[[Editor], Method] = Memit,
    ) -> None:
        self.registry = Registry(FolderStore(root))
        self.redis = redis
        self.changes = Changes(poll_seconds=0)
        loaded = loaded or loaded_tiny("llama")
        self.editor = editor_of(loaded, hparams, cache=self.registry.artefacts(loaded.digest))
        written_by = method(self.editor)
        begin_lineage(self.registry, self.editor, written_by)
        settings = Settings(gate_min_success=0, gate_max_perplexity_ratio=1e9)
        deltas = Deltas(self.registry.blobs)
        self.maker = VersionMaker(self.registry, self.editor, settings, written_by, deltas)
        self.stopping = threading.Event()
        self.runner = EditRunner(
            self.registry, self.maker, redis, "worker", self.stopping, self.changes, lambda _: None
        )

    def run(self, facts: list[Fact], **request: Any) -> EditEnd:
        """Accept an edit and run it to its end."""
        edit = AcceptedEdit(
            id=new_edit_id(),
            request=EditRequest(facts=facts, **request),
            accepted_at=time.time(),
        )
        self.registry.edits.accept(edit)
        self.runner.run(edit.id)
        end = self.registry.edits.end(edit.id)
        assert end is not None
        return end

    @property
    def active(self) -> str:
        return self.registry.versions.resolve("active")

    def version(self, facts: list[Fact], **request: Any) -> str:
        """Run an edit; the id of its version."""
        version = self.run(facts, **request).version
        assert version is not None
        return version

    def report(self, version: str) -> Report:
        report = self.registry.versions.get(version).report
        assert report is not None
        return report

    def scores(self, version: str, facts: list[Fact]) -> list[FactScore]:
        """How facts fare on the weights that are in the registry, measured one by one."""
        deltas = Deltas(self.registry.blobs)
        weights = self.registry.versions.get(version).weights
        solved = {weight.module: deltas.read(weight.blob) for weight in weights}
        model = self.editor.model_with(solved)
        return [evaluate_facts(model, [core_fact(one)])[0] for one in facts]

    def reporter(self, max_facts: int = 2_000, **told: Any) -> FullReporter:
        """A reporter beside which nothing happens, unless `told` otherwise."""
        quiet = {"editing": lambda: False, "generating": lambda: False}
        deltas = Deltas(self.registry.blobs)
        return FullReporter(
            self.registry,
            self.editor,
            self.redis,
            deltas,
            max_facts,
            512,
            self.changes,
            **(quiet | told),
        )

    def full_report(self, version: str) -> FullReport | None:
        """What a fresh process reads."""
        return Registry(self.registry.store).full_reports.get(version)

"""Making a version: plan, z, solve, measure. Nothing here moves an alias or ends an edit."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from structlog.contextvars import bound_contextvars

from contracts.edits import AcceptedEdit
from contracts.facts import LiveFact
from contracts.reports import Report
from contracts.settings import Settings
from contracts.versions import Canary, LayerWeights, VersionManifest, VersionStatus
from memit_core.check_facts import check_measured
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.facts import Fact as CoreFact
from memit_core.methods import Method
from memit_core.progress import ProgressCallback
from memit_core.software import software
from registry.registry import Registry
from worker.core_fact import core_fact
from worker.deltas import Deltas
from worker.plan import Plan, plan_edit
from worker.progress import EditProgress
from worker.quality import LIVE_SAMPLE, Quality, refusal, sampled
from worker.solutions import Solutions


@dataclass(frozen=True)
class Solution:
    """The weights of a plan and how they fare."""

    plan: Plan
    options: dict[str, Any]
    weights: list[LayerWeights]
    report: Report
    canary: list[Canary]


@dataclass(frozen=True)
class VersionSetup:
    """What every version of a worker is made with."""

    sources: Mapping[str, str]
    """Digests of what the method has prepared, by name."""
    quality: Quality


class VersionMaker:
    """Turns an accepted edit into the manifest of a version, on one worker's editor."""

    def __init__(
        self,
        registry: Registry,
        editor: Editor,
        settings: Settings,
        method: Method,
        deltas: Deltas,
    ) -> None:
        """Make nothing yet.

        Args:
            deltas: where what was just solved is read from, by whoever loads it.
        """
        self._registry = registry
        self._editor = editor
        self._settings = settings
        self._method = method
        self._deltas = deltas
        self._solutions = Solutions(registry, method, editor.loaded, deltas)
        self._quality: Quality | None = None
        # A tokenizer and what is prepared are for one thread at a time, and a version may be solved
        # again on another thread than an edit is made on.
        self._computing = threading.Lock()

    def prepare(self, progress: ProgressCallback) -> None:
        """Make what edits need and is missing: of the method, and states on the control text.

        Raises:
            MemitError: the method cannot be prepared.
        """
        with self._computing:
            self._prepared(progress)

    def _prepared(self, progress: ProgressCallback) -> VersionSetup:
        sources = self._method.prepare(progress)
        if self._quality is None:
            self._quality = Quality(self._editor, self._settings.max_context)
        return VersionSetup(sources, self._quality)

    def work_ahead(self, edit: AcceptedEdit, parent: str, progress: ProgressCallback) -> None:
        """Compute what the edit's own facts need, as far as it does not depend on other edits.

        Raises:
            Conflict, InvalidRequest: the edit cannot be applied to this parent.
            MemitError: a fact cannot be written; Cancelled by `progress`.
        """
        plan = plan_edit(self._registry.ledger.live(parent), edit.request)
        subjects = {fact.key[0] for fact in plan.added.values()}
        facts = [core_fact(fact) for fact in plan.facts() if fact.key[0] in subjects]
        with self._computing:
            self._prepared(progress)
            self._method.unwritable(facts, progress)

    def rebuild(self, version: str) -> None:
        """See `Solutions.rebuild`; waits for an edit that is being made."""
        with bound_contextvars(version_id=version), self._computing:
            self._solutions.rebuild(version)

    def make(self, edit: AcceptedEdit, parent: str, progress: EditProgress) -> VersionManifest:
        """The version that `edit` makes of `parent`; its blobs are in the registry, it is not.

        Raises:
            Conflict, InvalidRequest: the edit cannot be applied to this parent.
            MemitError: a fact cannot be written; Cancelled if the edit shall stop.
            StorageError: the storage is full or broken.
        """
        with self._computing:
            return self._make(edit, parent, progress)

    def _make(self, edit: AcceptedEdit, parent: str, progress: EditProgress) -> VersionManifest:
        progress("prepare", 0, 1)
        request = edit.request
        live = self._registry.ledger.live(parent)
        # An edit's options are for its version alone, so that weights depend on facts, not history.
        given = request.method_options()
        setup = self._prepared(progress)
        plan = plan_edit(live, request)
        for fact in plan.added.values():
            check_measured(self._editor.loaded, core_fact(fact), self._settings.max_fact_tokens)
        dropped: list[str] = []
        if request.drop_failed:
            dropped = self._unwritable(plan, progress)
            plan = plan_edit(live, request, dropped)
            _require_some(plan)
        solution = self._solve(setup, edit.id, plan, given, progress)
        if request.drop_failed and solution.report.missed:
            dropped += solution.report.missed
            plan = plan_edit(live, request, dropped)
            _require_some(plan)
            solution = self._solve(setup, edit.id, plan, given, progress)
        return self._manifest(edit, parent, setup.sources, solution, dropped)

    def _unwritable(self, plan: Plan, progress: EditProgress) -> list[str]:
        """Ids of this edit's facts that the method would fail for."""
        bad = self._method.unwritable(_core_facts(plan), progress)
        return [fact_id for fact_id, fact in plan.added.items() if core_fact(fact) in bad]

    def _solve(
        self,
        setup: VersionSetup,
        edit_id: str,
        plan: Plan,
        given: Mapping[str, Any],
        progress: EditProgress,
    ) -> Solution:
        facts = _core_facts(plan)
        options = self._method.options(facts, given)
        weights = self._solutions.of(facts, options, progress)
        model = self._editor.model_with({w.module: self._deltas.read(w.blob) for w in weights})
        progress("evaluate", 0, 1)
        kept = {fact_id: live.fact for fact_id, live in plan.kept.items()}
        older = sampled(kept, LIVE_SAMPLE, edit_id)
        edited = [weight.module for weight in weights]
        report = setup.quality.report(model, edited, plan, older, progress)
        canaries = setup.quality.canaries(model, plan.added)
        progress.close()
        seconds = {stage: round(spent, 3) for stage, spent in progress.seconds.items()}
        report = report.model_copy(update={"seconds": seconds})
        return Solution(plan, options, weights, report, canaries)

    def _manifest(
        self,
        edit: AcceptedEdit,
        parent: str,
        sources: Mapping[str, str],
        solution: Solution,
        dropped: list[str],
    ) -> VersionManifest:
        editor, plan, report = self._editor, solution.plan, solution.report
        seq = self._registry.versions.tip() + 1
        success = {fact.id: fact.success for fact in report.per_fact}
        live = [
            *plan.kept.values(),
            *(
                LiveFact(
                    id=fact_id, fact=fact, edit_id=edit.id, since=seq, learned=success[fact_id]
                )
                for fact_id, fact in plan.added.items()
            ),
        ]
        rejection = refusal(report, edit.request.gate, self._settings)
        if rejection and editor.advice:
            rejection = f"{rejection}; {editor.advice}"
        return VersionManifest(
            seq=seq,
            status=VersionStatus.REJECTED if rejection else VersionStatus.COMMITTED,
            rejection=rejection,
            dry_run=edit.request.activate is False,
            parent=parent,
            edit_id=edit.id,
            created_at=time.time(),
            base=editor.loaded.digest,
            model=editor.loaded.name,
            dtype=editor.loaded.dtype_name,
            hparams=solution.options,
            templates=sources.get("templates"),
            covariance=sources.get("covariance"),
            live=self._registry.ledger.put_live(live),
            live_count=len(live),
            added=list(plan.added),
            retracted=plan.retracted,
            superseded=plan.superseded,
            dropped=dropped,
            weights=solution.weights,
            report=report,
            canary=solution.canary,
            method=self._method.name,
            method_revision=self._method.revision,
            software=software(),
            device=str(editor.loaded.device),
        )


def _require_some(plan: Plan) -> None:
    """Refuse to commit an edit of which drop_failed left nothing."""
    if not plan.added and not plan.retracted:
        raise MemitError("no fact of the edit was learned, and drop_failed leaves out all")


def _core_facts(plan: Plan) -> list[CoreFact]:
    return [core_fact(fact) for fact in plan.facts()]

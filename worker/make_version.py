"""Making a version: plan, z, solve, measure. Nothing here moves an alias or ends an edit."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from contracts.edits import AcceptedEdit
from contracts.facts import LiveFact
from contracts.reports import Report
from contracts.settings import Settings
from contracts.versions import Canary, LayerWeights, VersionManifest, VersionStatus
from memit_core.check_facts import check_measured
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.facts import Group, group_facts
from memit_core.hparams import HParams
from memit_core.progress import Progress
from memit_core.revision import METHOD, METHOD_REVISION
from memit_core.software import software
from memit_core.weights import LowRank, decode
from registry.errors import BlobDamaged, BlobMissing
from registry.registry import Registry
from worker.plan import Plan, plan_edit
from worker.progress import EditProgress
from worker.quality import LIVE_SAMPLE, Quality, core_fact, refusal, sampled

log = logging.getLogger(__name__)


class NotReproduced(MemitError):
    """A version solved again from its facts did not come out bit for bit as it was stored."""


@dataclass(frozen=True)
class Solution:
    """The weights of a plan and how they fare."""

    plan: Plan
    hparams: HParams
    weights: list[LayerWeights]
    report: Report
    canary: list[Canary]


class VersionMaker:
    """Turns an accepted edit into the manifest of a version, on one worker's editor."""

    def __init__(self, registry: Registry, editor: Editor, settings: Settings) -> None:
        self._registry = registry
        self._editor = editor
        self._settings = settings
        self._artefacts = registry.artefacts(editor.loaded.digest)

    def prepare(self, progress: Progress) -> None:
        """Make what edits need: templates, covariance, factors, the base's states on the control.

        Raises:
            MemitError: the covariance cannot be factorised.
        """
        self._editor.prepare(progress)
        self._editor.factorise(progress)
        _ = self._quality

    @cached_property
    def _quality(self) -> Quality:
        return Quality(self._editor, self._settings.max_context)

    def make(self, edit: AcceptedEdit, parent: str, progress: EditProgress) -> VersionManifest:
        """The version that `edit` makes of `parent`; its blobs are in the registry, it is not.

        Raises:
            Conflict, InvalidRequest: the edit cannot be applied to this parent.
            MemitError: a fact cannot be written; Cancelled if the edit shall stop.
            OSError: the disk is full.
        """
        progress("prepare", 0, 1)
        request = edit.request
        live = self._registry.ledger.live(parent)
        # An edit's own λ is for its version alone, so that weights depend on facts, not on history.
        weight = request.mom2_update_weight
        self.prepare(progress)
        plan = plan_edit(live, request)
        for fact in plan.added.values():
            check_measured(self._editor.loaded, core_fact(fact), self._settings.max_fact_tokens)
        dropped: list[str] = []
        if request.drop_failed:
            dropped = self._not_finite(plan, progress)
            plan = plan_edit(live, request, dropped)
            _require_some(plan)
        solution = self._solve(edit.id, plan, weight, progress)
        if request.drop_failed and solution.report.missed:
            dropped += solution.report.missed
            plan = plan_edit(live, request, dropped)
            _require_some(plan)
            solution = self._solve(edit.id, plan, weight, progress)
        return self._manifest(edit, parent, solution, dropped)

    def _not_finite(self, plan: Plan, progress: EditProgress) -> list[str]:
        """Ids of this edit's facts whose z is not finite."""
        groups = _groups(plan)
        targets = self._editor.targets(groups, progress)
        bad = {g.subject for g, t in zip(groups, targets, strict=True) if not t.finite}
        return [fact_id for fact_id, fact in plan.added.items() if fact.key[0] in bad]

    def _solve(
        self, edit_id: str, plan: Plan, weight: float | None, progress: EditProgress
    ) -> Solution:
        groups = _groups(plan)
        hparams = self._editor.hparams_of(groups, weight)
        weights = self.weights(groups, hparams, progress)
        blobs = {w.layer: self._registry.blobs.get(w.blob) for w in weights}
        view = self._editor.apply(blobs)
        progress("evaluate", 0, 1)
        kept = {fact_id: live.fact for fact_id, live in plan.kept.items()}
        older = sampled(kept, LIVE_SAMPLE, edit_id)
        report = self._quality.report(view, plan, older, progress)
        canaries = self._quality.canaries(view, plan.added)
        progress.close()
        seconds = {stage: round(spent, 3) for stage, spent in progress.seconds.items()}
        report = report.model_copy(update={"seconds": seconds})
        return Solution(plan, hparams, weights, report, canaries)

    def weights(
        self, groups: list[Group], hparams: HParams, progress: EditProgress
    ) -> list[LayerWeights]:
        """Blobs of the solution for these groups; one that was solved before is read back.

        Kept by content like z: the first solution of a set of facts stands, so that the same facts
        give the same bits on any worker, whatever its device or number of threads.
        """
        weight = hparams.mom2_update_weight
        name = f"solutions/{self._editor.solution_digest(groups, hparams)}"
        kept = self._artefacts.get(name)
        if kept is None:
            solved = self._editor.solve(groups, progress, mom2_update_weight=weight)
            layers = [self._layer(layer, data) for layer, data in solved.items()]
            fresh = json.dumps([layer.model_dump(mode="json") for layer in layers]).encode()
            kept = self._artefacts.put_once(name, fresh)
        layers = [LayerWeights.model_validate(layer) for layer in json.loads(kept)]
        if not all(self._readable(layer.blob) for layer in layers):
            self._solve_again(layers, groups, weight)
        return layers

    def _readable(self, blob: str) -> bool:
        try:
            self._registry.blobs.get(blob)
        except (BlobMissing, BlobDamaged):
            return False
        return True

    def _solve_again(
        self, stored: Sequence[LayerWeights], groups: list[Group], weight: float
    ) -> None:
        """Put damaged blobs of a solution again; see `rebuild`."""
        solved = self._editor.solve(groups, mom2_update_weight=weight)
        for layer in stored:
            if self._registry.blobs.put(solved[layer.layer]) != layer.blob:
                raise NotReproduced(
                    f"layer {layer.layer} came out with other bits than were stored "
                    "(another device, library or number of threads?)"
                )

    def _layer(self, layer: int, data: bytes) -> LayerWeights:
        delta = decode(data)
        return LayerWeights(
            layer=layer,
            module=self._editor.structure.projections[layer],
            blob=self._registry.blobs.put(data),
            kind="low_rank" if isinstance(delta, LowRank) else "dense",
            rank=delta.rank,
        )

    def rebuild(self, version: str) -> None:
        """Solve a version's blobs again from its ledger and put them where they were.

        Raises:
            NotReproduced: what is solved now is not, bit for bit, what was stored.
        """
        manifest = self._registry.versions.get(version)
        groups = group_facts(core_fact(live.fact) for live in self._registry.ledger.live(version))
        log.warning("%s is solved again from its facts: a blob is damaged or gone", version)
        self._solve_again(manifest.weights, groups, manifest.hparams["mom2_update_weight"])

    def _manifest(
        self,
        edit: AcceptedEdit,
        parent: str,
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
            hparams=solution.hparams.as_dict(),
            templates=editor.contexts_digest,
            covariance=editor.covariance_digest,
            live=self._registry.ledger.put_live(live),
            live_count=len(live),
            added=list(plan.added),
            retracted=plan.retracted,
            superseded=plan.superseded,
            dropped=dropped,
            weights=solution.weights,
            report=report,
            canary=solution.canary,
            method=METHOD,
            method_revision=METHOD_REVISION,
            software=software(),
            device=str(editor.loaded.device),
        )


def _require_some(plan: Plan) -> None:
    """Refuse to commit an edit of which drop_failed left nothing."""
    if not plan.added and not plan.retracted:
        raise MemitError("no fact of the edit was learned, and drop_failed leaves out all")


def _groups(plan: Plan) -> list[Group]:
    return group_facts(core_fact(fact) for fact in plan.facts())

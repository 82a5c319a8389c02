"""How an edit's records are put together into what clients see."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.edits import (
    AcceptedEdit,
    Edit,
    EditEnd,
    EditFact,
    EditState,
    EditStep,
    StepKind,
    Superseded,
)
from contracts.errors import Problem
from contracts.versions import VersionManifest, VersionStatus


def running(steps: Sequence[EditStep]) -> bool:
    """Whether an attempt was begun that was not given up: a RUNNING after the last REQUEUED."""
    for step in reversed(steps):
        if step.kind in (StepKind.RUNNING, StepKind.REQUEUED):
            return step.kind is StepKind.RUNNING
    return False


def describe(
    edit: AcceptedEdit,
    steps: Sequence[EditStep],
    end: EditEnd | None,
    manifest: VersionManifest | None,
) -> Edit:
    """The edit as clients see it; `manifest` is that of the version it ended with, if any."""
    begun = [step.at for step in steps if step.kind is StepKind.RUNNING]
    described = Edit(
        id=edit.id,
        state=EditState.RUNNING if running(steps) else EditState.QUEUED,
        accepted_at=edit.accepted_at,
        started_at=begun[0] if begun else None,
        attempts=len(begun),
        cancel_requested=any(step.kind is StepKind.CANCEL_REQUESTED for step in steps),
        facts=[
            EditFact(id=fact.id, subject=fact.subject, target_new=fact.target_new)
            for fact in edit.request.facts
        ],
        retract=edit.request.retract,
        base=edit.request.base,
        principal=edit.principal,
        rebased_from=edit.rebased_from.standing.version if edit.rebased_from else None,
    )
    if end is not None:
        described.state = end.state
        described.ended_at = end.at
        described.version = end.version
        described.activated = end.activated
        described.not_activated = end.not_activated
        described.missed = end.missed
        described.dropped = end.dropped
        described.problem = end.problem
    if manifest is not None:
        described.report = manifest.report
        described.superseded = [Superseded(old=old, new=new) for old, new in manifest.superseded]
    return described


def end_of(
    version: str, manifest: VersionManifest, at: float, activated: bool, refused: str | None = None
) -> EditEnd:
    """The end of the edit that made a version.

    Args:
        at: unix seconds.
        activated: whether `active` was moved to it.
        refused: why not, where it should have been.
    """
    rejected = manifest.status is VersionStatus.REJECTED
    return EditEnd(
        state=EditState.REJECTED if rejected else EditState.COMMITTED,
        at=at,
        version=version,
        activated=activated,
        not_activated=refused,
        problem=_rejection(manifest) if rejected else None,
        missed=[] if manifest.report is None else manifest.report.missed,
        dropped=manifest.dropped,
    )


def _rejection(manifest: VersionManifest) -> Problem:
    return Problem(
        type="/problems/rejected-by-gate",
        title="Rejected by the quality gate",
        status=422,
        detail=manifest.rejection or "the version did not reach what the gate asks",
    )

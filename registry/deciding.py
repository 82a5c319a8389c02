"""How an edit ends is decided in its steps: by the first that commits, cancels or fails it."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.edits import EditEnd, EditState, EditStep, StepKind


def ended_without_version(steps: Sequence[EditStep], at: float) -> EditEnd | None:
    """The end that a cancel or a failure in the steps decides; None if none does.

    Args:
        at: unix seconds of a cancel.
    """
    step = failing(steps)
    if step is not None:
        return EditEnd(state=EditState.FAILED, at=step.at, problem=step.problem)
    return EditEnd(state=EditState.CANCELLED, at=at) if cancelled(steps) else None


def cancelled(steps: Sequence[EditStep]) -> bool:
    return any(step.kind is StepKind.CANCEL_REQUESTED for step in steps)


def failing(steps: Sequence[EditStep]) -> EditStep | None:
    """The step from which on the edit fails, unless it was cancelled before."""
    for step in steps:
        if step.kind is StepKind.CANCEL_REQUESTED:
            return None
        if step.kind is StepKind.FAILING:
            return step
    return None


def given_up(steps: Sequence[EditStep]) -> bool:
    return cancelled(steps) or failing(steps) is not None


def decided(steps: Sequence[EditStep]) -> str | None:
    """The blob of the manifest that the first attempt to say so commits."""
    found = (step.manifest for step in steps if step.kind is StepKind.COMMITTING)
    return next((manifest for manifest in found if manifest is not None), None)


def committing(steps: Sequence[EditStep]) -> bool:
    return any(step.kind is StepKind.COMMITTING for step in steps)

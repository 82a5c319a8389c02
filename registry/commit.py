"""Settling: what is left to do once an edit's version is in the log, done once or again."""

from __future__ import annotations

import time

from contracts.edits import EditEnd, EditState, StepKind
from contracts.errors import PreconditionFailed, Problem
from contracts.versions import VersionManifest, VersionStatus
from registry.registry import Registry

ACTIVE = "active"


def settle(registry: Registry, edit_id: str, *, activate: bool = True) -> EditEnd | None:
    """Complete an edit whose version is in the log: move `active`, then end the edit.

    The normal path and recovery call this alike, and it may be repeated after a crash anywhere.
    `active` moves, once, if the last COMMITTING step carries an epoch, `active` is still at that
    epoch, and the version was neither rejected nor a dry run.

    Args:
        activate: False leaves `active` where it is: the caller cannot serve the version.

    Returns:
        The edit's end, also if it had ended before; None if it has no version (yet).

    Raises:
        NotFound: not an edit id.
        RegistryError: the version cannot be read; the edit stays unfinished.
        OSError: the disk is full or broken; the edit stays unfinished.
    """
    end = registry.edits.end(edit_id)
    if end is not None:
        return end
    version = registry.versions.of_edit(edit_id)
    if version is None:
        return None
    manifest = registry.versions.get(version)
    rejected = manifest.status is VersionStatus.REJECTED
    end = EditEnd(
        state=EditState.REJECTED if rejected else EditState.COMMITTED,
        at=time.time(),
        version=version,
        activated=activate and _activate(registry, edit_id, version, manifest),
        problem=_rejection(manifest) if rejected else None,
        missed=[] if manifest.report is None else manifest.report.missed,
        dropped=manifest.dropped,
    )
    return registry.edits.finish(edit_id, end)


def _activate(registry: Registry, edit_id: str, version: str, manifest: VersionManifest) -> bool:
    """Move `active` to the version if it may; whether this edit ever moved it there."""
    steps = registry.edits.steps(edit_id)
    committing = [step for step in steps if step.kind is StepKind.COMMITTING]
    epoch = committing[-1].active_epoch if committing else None
    if epoch is None or manifest.dry_run or manifest.status is not VersionStatus.COMMITTED:
        return False
    if _moved(registry, edit_id, version):
        return True
    try:
        registry.aliases.move(ACTIVE, version, epoch, edit_id)
    except PreconditionFailed:
        # Somebody else moved it since; or another process settles this very edit.
        return _moved(registry, edit_id, version)
    return True


def _moved(registry: Registry, edit_id: str, version: str) -> bool:
    history = registry.aliases.history(ACTIVE)
    return any((record.edit_id, record.version) == (edit_id, version) for record in history)


def _rejection(manifest: VersionManifest) -> Problem:
    return Problem(
        type="/problems/rejected-by-gate",
        title="Rejected by the quality gate",
        status=422,
        detail=manifest.rejection or "the version did not reach what the gate asks",
    )

"""What is left to do once an edit's version is in the log, done once or again."""

from __future__ import annotations

import time

from contracts.edits import EditEnd, EditState
from contracts.errors import Problem
from contracts.versions import VersionManifest, VersionStatus
from registry.activation import activate
from registry.registry import Registry


def finish_edit(
    registry: Registry, edit_id: str, *, hold_back: str | None = None
) -> EditEnd | None:
    """Complete an edit whose version is in the log: move `active` if it may, then end the edit.

    The normal path and recovery call this alike, and it may be repeated after a crash anywhere.

    Args:
        hold_back: why `active` shall stay where it is: no engine can serve the version.

    Returns:
        The edit's end, also if it had ended before; None if it has no version (yet).

    Raises:
        NotFound: not an edit id.
        RegistryError: the version cannot be read, or the storage fails; the edit stays unfinished.
    """
    end = registry.edits.end(edit_id)
    if end is not None:
        return end
    version = registry.versions.of_edit(edit_id)
    if version is None:
        return None
    manifest = registry.versions.get(version)
    rejected = manifest.status is VersionStatus.REJECTED
    activation = activate(registry, edit_id, version, manifest, hold_back)
    end = EditEnd(
        state=EditState.REJECTED if rejected else EditState.COMMITTED,
        at=time.time(),
        version=version,
        activated=activation.done,
        not_activated=activation.refused,
        problem=_rejection(manifest) if rejected else None,
        missed=[] if manifest.report is None else manifest.report.missed,
        dropped=manifest.dropped,
    )
    return registry.edits.finish(edit_id, end)


def _rejection(manifest: VersionManifest) -> Problem:
    return Problem(
        type="/problems/rejected-by-gate",
        title="Rejected by the quality gate",
        status=422,
        detail=manifest.rejection or "the version did not reach what the gate asks",
    )

"""An epoch of `active` whose record is lost, from the edit that moved it there."""

from __future__ import annotations

from contracts.edits import StepKind
from contracts.versions import ACTIVE, AliasRecord
from registry.edits import Edits
from registry.errors import RecordDamaged
from registry.versions import Versions


def moved_by_edit(edits: Edits, versions: Versions, name: str, epoch: int) -> AliasRecord | None:
    """The epoch as an edit put it; None if none did, so that only who moved the alias knows it.

    An edit that says in its end that it activated its version did so from the epoch in its last
    COMMITTING step.
    """
    if name != ACTIVE:
        return None
    for number in range(versions.tip(), -1, -1):
        try:
            version = versions.by_seq(number)
            edit_id = version and versions.get(version).edit_id
            end = edits.recorded_end(edit_id) if edit_id else None
        except RecordDamaged:
            continue
        if not version or not edit_id or end is None:
            continue
        if not end.activated or end.version != version:
            continue
        begun = [step for step in edits.steps(edit_id) if step.kind is StepKind.COMMITTING]
        if begun and begun[-1].active_epoch == epoch - 1:
            return AliasRecord(name=name, epoch=epoch, version=version, at=end.at, edit_id=edit_id)
    return None

"""What is left to do once an edit is being committed, done once or again."""

from __future__ import annotations

import time

from contracts.edits import EditEnd
from registry.activation import activate
from registry.describe import end_of
from registry.registry import Registry


def finish_edit(
    registry: Registry, edit_id: str, *, hold_back: str | None = None
) -> EditEnd | None:
    """Complete an edit that an attempt began to commit: its version, then `active`, then its end.

    The normal path and recovery call this alike, and it may be repeated after a crash anywhere.

    Args:
        hold_back: why `active` shall stay where it is: no engine can serve the version.

    Returns:
        The edit's end, also if it had ended before; None if nothing is committed of it (yet).

    Raises:
        NotFound: not an edit id.
        RegistryError: the version cannot be read, or the storage fails; the edit stays unfinished.
    """
    end = registry.edits.end(edit_id)
    if end is not None:
        return end
    version = registry.versions.of_edit(edit_id)
    if version is None:
        decided = registry.edits.decided(edit_id)
        if decided is None:
            return None
        version = registry.versions.commit_as_next(decided)
    manifest = registry.versions.get(version)
    activation = activate(registry, edit_id, version, manifest, hold_back)
    end = end_of(version, manifest, time.time(), activation.done, activation.refused)
    return registry.edits.finish(edit_id, end)

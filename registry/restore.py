"""Newest records of logs that are gone: put again where other files prove what they said.

A record that is gone from the middle of a log leaves a gap that readers see. The newest one leaves
none: the log would go on from before it, and a version that `active` names would be unknown.
"""

from __future__ import annotations

import logging

from contracts.ids import VERSION_ID, VersionId, version_seq
from contracts.versions import ACTIVE
from registry.errors import ManifestDamaged, RecordDamaged
from registry.moves import moved_by_edit
from registry.registry import Registry

log = logging.getLogger(__name__)


def restore_newest(registry: Registry) -> list[str]:
    """Append what is proven to be missing after the tips; the keys of that.

    Raises:
        StorageError: the storage fails.
    """
    return [*_versions(registry), *_active(registry)]


def _versions(registry: Registry) -> list[str]:
    """Entries of versions that ended their edit: it ends after its version is in the log."""
    names = (name.removesuffix(".json") for name in registry.store.names("versions"))
    tip = registry.versions.tip()
    later = [one for one in names if VERSION_ID.fullmatch(one) and version_seq(one) > tip]
    restored = []
    for version in sorted(later, key=version_seq):
        if _ended_with(registry, version) and registry.versions.append_lost(version):
            restored.append(f"versions/by-seq/{version_seq(version)}.json")
            log.error("%s was gone from the log of versions and is there again", version)
    return restored


def _ended_with(registry: Registry, version: VersionId) -> bool:
    try:
        edit_id = registry.versions.manifest(version).edit_id
        end = registry.edits.recorded_end(edit_id) if edit_id else None
    except (ManifestDamaged, RecordDamaged):
        return False
    return end is not None and end.version == version


def _active(registry: Registry) -> list[str]:
    """The newest epoch of `active`, if an edit says that it put it."""
    epoch = registry.aliases.epoch(ACTIVE) + 1
    moved = moved_by_edit(registry.edits, registry.versions, ACTIVE, epoch)
    if moved is None or not registry.aliases.append_lost(moved):
        return []
    log.error("epoch %d of active was gone and is there again: %s", epoch, moved.version)
    return [f"aliases/{ACTIVE}/{epoch}.json"]

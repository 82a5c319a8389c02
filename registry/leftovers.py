"""Blobs that nothing needs: of edits that were cut short, cancelled or failed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pydantic import BaseModel

from contracts.edits import EditStep
from contracts.versions import VersionManifest
from registry.blobs import blob_key
from registry.checkup import read_all
from registry.errors import BlobDamaged, BlobMissing, RecordDamaged
from registry.kinds import kind_of
from registry.references import missing, unnamed
from registry.registry import Registry
from registry.releases import Release


class Leftover(BaseModel):
    """A blob that may go."""

    digest: str
    size: int


def leftovers(registry: Registry, idle: float) -> list[Leftover]:
    """Blobs that nobody has put for `idle` seconds and no version, pointer or edit needs, sorted.

    Weights that a solution alone names are among them: it is solved again where it is needed.

    Raises:
        RecordDamaged: a file that cannot be had again is damaged or gone, and may have named them.
        StorageError: the storage fails.
    """
    store = registry.store
    sound, damaged = read_all(store, blobs=False)
    gone = (RecordDamaged(key, f"it is gone; {why}") for key, why in missing(store, sound).items())
    for error in (*damaged, *gone):
        kind = kind_of(error.key)
        if kind is None or not kind.derived:
            raise error
    needed = set(_of_manifests(registry, sound))
    found = []
    for key in unnamed(store, sound, solutions=False):
        age = store.age(key)
        if key.startswith("blobs/") and key not in needed and age is not None and age >= idle:
            found.append(Leftover(digest=key.rpartition("/")[2], size=store.size(key) or 0))
    return found


def remove_leftovers(registry: Registry, found: list[Leftover], idle: float) -> int:
    """Remove them, those that are wanted again meanwhile excepted; how many went.

    Raises:
        StorageError: the storage fails; may be repeated.
    """
    if not found:
        return 0
    blobs = [one.digest for one in found if one.digest not in registry.releases.blobs()]
    if blobs:
        registry.releases.add(Release(at=time.time(), blobs=blobs))
    return sum(registry.store.remove(blob_key(one.digest), idle) for one in found)


def _of_manifests(registry: Registry, sound: dict[str, BaseModel | None]) -> Iterator[str]:
    """Blobs of all manifests: also of those without a number yet, or not even under their id."""
    for key, record in sound.items():
        manifest = record
        if isinstance(record, EditStep) and record.manifest is not None:
            if f"{key.rpartition('/')[0]}/end.json" in sound:
                continue
            try:
                manifest = registry.versions.kept(record.manifest)
            except (BlobMissing, BlobDamaged, RecordDamaged):
                continue  # it is made again
        if isinstance(manifest, VersionManifest):
            yield from map(blob_key, (manifest.live, *manifest.blobs))

"""Which weights are given up, and giving them up: what is solved again when it is asked for.

Services and workers may run meanwhile, and other runs of this. A version that comes, or gets an
alias, between the last look and the removal finds its weights gone: it is solved again as any
other. So nothing here has to be atomic, only rare.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

from contracts.ids import VersionId, version_seq
from contracts.versions import VersionManifest
from registry.blobs import blob_key
from registry.errors import RegistryError, StorageError
from registry.registry import Registry
from registry.releases import Release

UNRELATED = ("python", "memit-service")
"""Of the software that made a version: other releases give the same bits."""


class Policy(BaseModel):
    """What is kept."""

    keep: int = Field(ge=1, description="the newest versions, so many")
    older_than: float = Field(ge=0, description="seconds: nothing younger is given up")
    any_software: bool = Field(
        default=False, description="give up what this software may solve to other bits too"
    )


class Considered(BaseModel):
    """A version that has weights, and what becomes of them."""

    version: VersionId
    created_at: float
    kept: str | None = Field(default=None, description="why they stay; null: they do not")
    size: int = Field(default=0, description="bytes on the disk that are freed")
    blobs: list[str] = Field(default_factory=list, exclude=True)


def consider(registry: Registry, policy: Policy) -> list[Considered]:
    """Every version that has weights, the newest first.

    Raises:
        RecordDamaged: where an alias points is not known, so nothing may be given up.
        StorageError: the storage fails.
    """
    manifests = list(_manifests(registry))
    named = _named(registry)
    setup = _setup(manifests[0][1]) if manifests else {}
    found, kept = [], set()
    for version, manifest in manifests:
        why = _kept(registry, policy, version, manifest, named)
        if why is None and not policy.any_software and _setup(manifest) != setup:
            why = "made by other software, or on another device, than the newest"
        if why is not None:
            kept.update(manifest.blobs)
        one = Considered(version=version, created_at=manifest.created_at, kept=why)
        found.append(one.model_copy(update={"blobs": manifest.blobs}))
    counted = set(kept)
    for one in found:
        if one.kept is None:
            one.blobs = [blob for blob in one.blobs if blob not in kept]
            mine = [blob for blob in one.blobs if blob not in counted]
            one.size = sum(registry.blobs.size(blob) or 0 for blob in mine)
            counted.update(mine)
            if not one.blobs:
                one.kept = "the same weights as a version that is kept"
            elif not any(registry.blobs.has(blob) for blob in one.blobs):
                one.kept = "removed already"
    return found


def give_up(registry: Registry, policy: Policy, considered: list[Considered]) -> Iterator[str]:
    """Remove the weights that `consider` found; the versions that lost some, one by one.

    Raises:
        RecordDamaged, StorageError: as `consider`; may be repeated after it, and after a crash.
    """
    chosen = [one for one in considered if one.kept is None]
    new = [one.version for one in chosen if one.version not in registry.releases.versions()]
    if new:
        registry.releases.add(Release(at=time.time(), versions=new))
    for one in chosen:
        spared = _needed(registry, after=version_seq(chosen[0].version))
        doomed = [blob for blob in one.blobs if blob not in spared]
        removed = [registry.store.remove(blob_key(blob), policy.older_than) for blob in doomed]
        if any(removed):
            yield one.version


def _manifests(registry: Registry, after: int = -1) -> Iterator[tuple[VersionId, VersionManifest]]:
    """Versions with weights, the newest first; one that cannot be read is left alone."""
    for number in range(registry.versions.tip(), after, -1):
        try:
            version = registry.versions.by_seq(number)
            manifest = version and registry.versions.get(version)
        except StorageError:
            raise
        except RegistryError:
            continue
        if version and manifest and manifest.weights:
            yield version, manifest


def _kept(
    registry: Registry,
    policy: Policy,
    version: VersionId,
    manifest: VersionManifest,
    named: dict[str, list[str]],
) -> str | None:
    if version in named:
        return f"alias {', '.join(named[version])}"
    if manifest.seq > registry.versions.tip() - policy.keep:
        return f"one of the newest {policy.keep}"
    ages = [registry.store.age(blob_key(blob)) for blob in manifest.blobs]
    put = min((age for age in ages if age is not None), default=policy.older_than)
    if time.time() - manifest.created_at < policy.older_than:
        return "young"
    return "solved again lately" if put < policy.older_than else None


def _named(registry: Registry) -> dict[str, list[str]]:
    """The aliases of each version that has one; every version of a split.

    Raises:
        RecordDamaged: where one points is not known.
    """
    found: dict[str, list[str]] = {}
    for name in registry.aliases.names():
        record = registry.aliases.get(name)
        for version in [] if record is None else record.versions:
            found.setdefault(version, []).append(name)
    return found


def _needed(registry: Registry, after: int) -> set[str]:
    """Blobs of versions that have an alias by now, and of all numbered above `after`."""
    named, needed = _named(registry), set()
    for version, manifest in _manifests(registry, min([after + 1, *map(version_seq, named)]) - 1):
        if version in named or manifest.seq > after:
            needed.update(manifest.blobs)
    return needed


def _setup(manifest: VersionManifest) -> dict[str, Any]:
    """What decides, besides the facts and options, to which bits a version is solved."""
    software = {name: one for name, one in manifest.software.items() if name not in UNRELATED}
    fields = {"method", "method_revision", "dtype", "device", "templates", "covariance"}
    return {"software": software, **manifest.model_dump(include=fields)}

"""Mending what `examine` found: damaged files are set aside, and what is known is put again.

Nothing is deleted and nothing computed by the model. Services and workers may run meanwhile: a file
is set aside only if it is damaged when that is done, and all they do after is what they do whenever
a file is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from contracts.errors import ServiceError
from contracts.ids import version_seq
from contracts.versions import AliasRecord
from registry.artefacts import Pointer
from registry.checkup import Finding, keys_under
from registry.errors import RecordDamaged, RegistryError, StorageError
from registry.records import read_record
from registry.registry import Registry
from registry.restore import restore_newest


def repair(registry: Registry, findings: list[Finding]) -> Iterator[str]:
    """Mend what can be; says what was done.

    Raises:
        StorageError: the storage fails.
    """
    for finding in findings:
        if not registry.store.exists(finding.file):
            continue
        if finding.file.startswith("blobs/"):
            registry.blobs.quarantine(finding.file.rpartition("/")[2])
            yield f"{finding.file} is in quarantine/"
        elif finding.derived:
            aside = registry.store.set_aside(finding.file)
            yield f"{finding.file} is {aside}"
    yield from _pointers(registry)
    yield from _manifests(registry, findings)
    yield from _versions(registry)
    yield from (f"{key} is there again" for key in restore_newest(registry))
    yield from (f"{one} has a new place in the order" for one in registry.edits.place_lost())
    for name in registry.aliases.names():
        yield from _alias(registry, name)


def _pointers(registry: Registry) -> Iterator[str]:
    """Set pointers aside whose blob is gone: what they name is computed again, or never asked."""
    store = registry.store
    for key in keys_under(store, "models"):
        try:
            pointer = read_record(store, Pointer, key)
        except RecordDamaged:
            continue
        if pointer is not None and not registry.blobs.has(pointer.blob):
            yield f"{key} names what is gone and is {store.set_aside(key)}"


def _manifests(registry: Registry, findings: list[Finding]) -> Iterator[str]:
    """Put manifests again that have a copy."""
    for finding in findings:
        found = re.fullmatch(r"versions/(v\d+-[0-9a-f]{12})\.json", finding.file)
        if found is not None and registry.versions.restore_manifest(found[1]):
            yield f"{finding.file} is there again, from its copy"


def _versions(registry: Registry) -> Iterator[str]:
    """Make ledgers again that are gone, and copies of manifests."""
    for number in range(registry.versions.tip() + 1):
        try:
            version = registry.versions.by_seq(number)
            if version is None:
                continue
            registry.versions.keep_copy(version)
            if registry.blobs.has(registry.versions.get(version).live):
                continue
            registry.ledger.mend(version)
            yield f"the ledger of {version} is there again, from its edits"
        except StorageError:
            raise
        except RegistryError:
            continue  # it is among the findings, and stays there


def _alias(registry: Registry, name: str) -> Iterator[str]:
    """Move an alias whose newest epoch is lost to what it named before."""
    try:
        registry.aliases.get(name)
        return
    except RecordDamaged as error:
        lost = error
    epoch = registry.aliases.epoch(name)
    for record in reversed(registry.aliases.history(name)):
        try:
            registry.aliases.move(name, record.split or record.version, epoch)
        except (ServiceError, RecordDamaged):
            continue  # that version cannot be served: look further back
        yield (
            f"{lost}: {name} names {_named(record)} again, as in epoch {record.epoch}; "
            "move it if it should name another version"
        )
        return
    yield f"{lost}: there is no version that {name} could name instead"


def _named(record: AliasRecord) -> str:
    return ", ".join(sorted(record.versions, key=version_seq))

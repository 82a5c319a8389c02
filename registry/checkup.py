"""What is wrong with the files of a registry: each is read whole, and nothing is changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from pydantic import BaseModel, Field

from contracts.audit import AuditRecord
from contracts.edits import AcceptedEdit, EditEnd, EditStep
from contracts.ids import VERSION_ID, version_id, version_seq
from contracts.keys import KeyRecord, Revocation
from contracts.reports import FullReport
from contracts.versions import AliasRecord, VersionManifest
from contracts.webhooks import DeliveryRecord, WebhookEnd, WebhookRecord
from registry.acceptance import EditEntry, Idempotency
from registry.artefacts import Pointer
from registry.errors import RecordDamaged, StorageError
from registry.kinds import kind_of
from registry.records import decode_record
from registry.references import missing, unnamed
from registry.registry import Registry
from registry.releases import Release
from registry.store import Store
from registry.versions import VersionEntry

FOLDERS = (
    "aliases", "audit", "blobs", "edits", "idempotency", "keys", "models", "releases", "versions",
    "webhooks",
)  # fmt: skip

_RECORDS: list[tuple[str, type[BaseModel]]] = [
    (r"edits/by-seq/\d+\.json", EditEntry),
    (r"edits/[^/]+/request\.json", AcceptedEdit),
    (r"edits/[^/]+/end\.json", EditEnd),
    (r"edits/[^/]+/\d+\.json", EditStep),
    (r"versions/by-seq/\d+\.json", VersionEntry),
    (r"versions/.*\.report(\.\d+)?\.json", FullReport),
    (r"aliases/[^/]+/\d+\.json", AliasRecord),
    (r"audit/\d+\.json", AuditRecord),
    (r"idempotency/.*", Idempotency),
    (r"keys/[^/]+/key\.json", KeyRecord),
    (r"keys/[^/]+/revoked\.json", Revocation),
    (r"models/.*", Pointer),
    (r"releases/\d+\.json", Release),
    (r"webhooks/[^/]+/webhook\.json", WebhookRecord),
    (r"webhooks/[^/]+/end\.json", WebhookEnd),
    (r"webhooks/[^/]+/attempts/\d+\.json", DeliveryRecord),
]


class Finding(BaseModel):
    """A file that is damaged or gone."""

    file: str
    reason: str = Field(description="what is wrong with it")
    what: str = Field(description="what the file is")
    derived: bool = Field(description="whether it can be had again from the rest, or the model")
    follows: str = Field(description="what does not work meanwhile")
    remedy: str = Field(description="what to do")


class Checkup(BaseModel):
    """What was found in a registry."""

    files: int = Field(description="how many were read")
    findings: list[Finding]
    unnamed: list[str] = Field(
        description="manifests and blobs that nothing names: a crash left them, they do no harm"
    )
    unplaced: list[str] = Field(
        description="edits that are kept and not in the order: their acceptance was cut short"
    )


def examine(registry: Registry) -> Checkup:
    """Every damaged file, every file that another one names and that is not there, and orphans.

    Raises:
        StorageError: the storage fails.
    """
    store = registry.store
    sound, damaged = read_all(store)
    findings = {
        error.key: _finding(error.key, str(error).partition(" is damaged: ")[2])
        for error in damaged
    }
    for key, named_by in missing(store, sound).items():
        if key not in findings:
            findings[key] = _finding(key, f"it is gone; {named_by}")
    return Checkup(
        files=len(sound) + sum(store.exists(key) for key in findings),
        findings=[findings[key] for key in sorted(findings)],
        unnamed=unnamed(store, sound),
        unplaced=registry.edits.unplaced(),
    )


def read_all(
    store: Store, blobs: bool = True
) -> tuple[dict[str, BaseModel | None], list[RecordDamaged]]:
    """Every file that can be read, by key, with its record, None for a blob; and what cannot be.

    Args:
        blobs: read them too; else they only have to be there.
    """
    sound: dict[str, BaseModel | None] = {}
    damaged = []
    for folder in FOLDERS:
        for key in keys_under(store, folder):
            try:
                sound[key] = read(store, key) if blobs or not key.startswith("blobs/") else None
            except RecordDamaged as error:
                damaged.append(RecordDamaged(key, str(error).partition(" is damaged: ")[2]))
    return sound, damaged


def keys_under(store: Store, prefix: str) -> Iterator[str]:
    """Every key below, sorted by folder."""
    for name in store.names(prefix):
        key = f"{prefix}/{name}"
        if "." in name or re.fullmatch(r"blobs/[^/]+/[^/]+/[^/]+", key):
            yield key
        else:
            try:
                below = list(keys_under(store, key))
            except (StorageError, RecordDamaged):
                below = [key]  # no folder; or whoever reads it is told why it cannot be read
            yield from below


def read(store: Store, key: str) -> BaseModel | None:
    """The record under a key; None for a blob, whose bytes have its digest.

    Raises:
        RecordDamaged: it is none of the kind that belongs there.
    """
    if key.startswith("blobs/"):
        _check_blob(store, key)
        return None
    return checked(key, store.get(key) or b"")


def checked(key: str, data: bytes) -> BaseModel | None:
    """The record in `data`; None where this does not know the kind.

    Raises:
        RecordDamaged: it is none of the kind that belongs under this key.
    """
    for pattern, kind in _RECORDS:
        if re.fullmatch(pattern, key):
            return decode_record(kind, key, data)
    return _manifest(key, data) if key.partition("/")[0] in FOLDERS else None


def _check_blob(store: Store, key: str) -> None:
    found = hashlib.sha256()
    for piece in store.stream(key) or ():
        found.update(piece)
    if found.hexdigest() != key.rpartition("/")[2]:
        raise RecordDamaged(key, "its bytes have another digest")


def _manifest(key: str, data: bytes) -> VersionManifest:
    version = key.removeprefix("versions/").removesuffix(".json")
    if not VERSION_ID.fullmatch(version):
        raise RecordDamaged(key, "no file of this name belongs here")
    if version_id(version_seq(version), hashlib.sha256(data).hexdigest()) != version:
        raise RecordDamaged(key, "its bytes have another digest")
    return decode_record(VersionManifest, key, data)


def _finding(key: str, reason: str) -> Finding:
    kind = kind_of(key)
    return Finding(
        file=key,
        reason=reason,
        what="unknown" if kind is None else kind.what,
        derived=kind is not None and kind.derived,
        follows="nothing" if kind is None else kind.follows,
        remedy="move it elsewhere" if kind is None else kind.remedy,
    )

"""What each file of the registry is, and what to do when it is damaged."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import BlobDamaged, BlobMissing, RecordDamaged, RegistryError


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    what: str
    derived: bool
    """Whether it can be had again from other files or from the model."""
    follows: str
    """What is lost, or does not work, while it is damaged."""
    remedy: str


_ITSELF = "nothing: it is made again where it is needed"
_BACKUP = "put the file back from a backup, if there is one"

_KINDS: list[tuple[str, Kind]] = [
    (
        r"models/[0-9a-f]{64}/solutions/.*",
        Kind("which blobs solve a set of facts", True, "they are solved again", _ITSELF),
    ),
    (
        r"models/[0-9a-f]{64}/.*",
        Kind("which blob was computed for the model", True, "it is computed again", _ITSELF),
    ),
    (
        r"blobs/sha256/.*",
        Kind(
            "bytes named by their digest",
            True,
            "they are made again where they are needed: weights solved, ledgers from the edits",
            "for weights: generate with the version once, and a worker solves them again; else "
            "nothing",
        ),
    ),
    (
        r"versions/v[^/]*\.report(\.\d+)?\.json",
        Kind("the full report of a version", True, "it is measured again, if due", _ITSELF),
    ),
    (
        r"versions/by-seq/.*",
        Kind(
            "which version has this number",
            False,
            "that version is not found, unless its manifest is the only one of its number",
            _BACKUP,
        ),
    ),
    (
        r"versions/.*",
        Kind(
            "the manifest of a version",
            False,
            "its copy among the blobs is read; without one the version cannot be served, and "
            "edits must start from another",
            f"{_BACKUP}; else point aliases at another version",
        ),
    ),
    (
        r"edits/by-seq/.*",
        Kind(
            "which edit came at this place",
            False,
            "that edit is missing in the list; a worker gives it a new place if it has not ended",
            f"nothing, or {_BACKUP}",
        ),
    ),
    (
        r"edits/[^/]*/request\.json",
        Kind(
            "what a client asked for in an edit",
            False,
            "the edit cannot be shown; one that has not ended fails",
            f"{_BACKUP}; post the edit again if it failed",
        ),
    ),
    (
        r"edits/[^/]*/end\.json",
        Kind(
            "how an edit ended",
            False,
            "the end is read off the version that it made; without one it counts as failed",
            f"nothing, or {_BACKUP}",
        ),
    ),
    (
        r"edits/[^/]*/.*",
        Kind(
            "a step of an edit",
            False,
            "the edit goes on without it; a cancel that it asked for may be lost",
            f"nothing, or {_BACKUP}",
        ),
    ),
    (
        r"aliases/.*",
        Kind(
            "one epoch of an alias",
            False,
            "the newest of `active` is read off the edit that moved it; else what the alias names "
            "is not known until it is moved",
            "for the newest epoch of an alias: PUT /aliases/NAME with its number in If-Match, or "
            "`memit doctor --repair`, which takes the epoch before it",
        ),
    ),
    (
        r"releases/.*",
        Kind(
            "which weights `memit prune` removed",
            False,
            "weights that it removed are taken for lost; they are solved again all the same",
            f"nothing, or {_BACKUP}",
        ),
    ),
    (
        r"webhooks/[^/]*/webhook\.json",
        Kind(
            "whom to tell of events",
            False,
            "nothing is sent to it, and it is not listed",
            f"{_BACKUP}; else make another webhook",
        ),
    ),
    (
        r"webhooks/[^/]*/end\.json",
        Kind("the end of a webhook", False, "it is over all the same, and not listed", "nothing"),
    ),
    (
        r"webhooks/[^/]*/attempts/.*",
        Kind("an attempt to deliver an event", False, "that event may be sent again", "nothing"),
    ),
    (
        r"keys/[^/]*/key\.json",
        Kind(
            "a key of the API",
            False,
            "it is not valid, and not listed",
            f"{_BACKUP}; else make another key",
        ),
    ),
    (
        r"keys/[^/]*/revoked\.json",
        Kind("the end of a key", False, "the key is not valid all the same, nor listed", "nothing"),
    ),
    (
        r"audit/.*",
        Kind(
            "who made a change",
            False,
            "`memit audit verify` fails at its number",
            f"{_BACKUP}; else the record that it speaks of says most of it",
        ),
    ),
    (
        r"idempotency/.*",
        Kind(
            "which edit came with an Idempotency-Key",
            False,
            "requests with this key are refused",
            "look in GET /edits whether the edit is there; if not, post it with another key",
        ),
    ),
]


def kind_of(key: str) -> Kind | None:
    """The kind of file that lies under a key; None if the registry has none such."""
    return next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, key)), None)


def file_of(error: RegistryError) -> str | None:
    """The file that an error is about; None if it is about the storage."""
    if isinstance(error, BlobMissing | BlobDamaged):
        return f"blobs/sha256/{error.digest[:2]}/{error.digest}"
    return error.key if isinstance(error, RecordDamaged) else None


def explained(error: RegistryError) -> str:
    """The error with what the file was and what to do."""
    file = file_of(error)
    kind = None if file is None else kind_of(file)
    return str(error) if kind is None else f"{error} ({kind.what}); {kind.remedy}"

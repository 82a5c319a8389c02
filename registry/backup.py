"""A copy of a registry in use that is one: whatever a file in it names is in it too.

Files are put once, and what names a file is put after it. So what names others is listed before
them: ends of edits, aliases, the log of versions, then edits, manifests, and blobs last. Copied is
in the other order, so that a copy that is broken off is whole too, only older. What came between
two listings is as after a crash: an edit in the middle of its commit is completed by the copy's
worker.

Weights that are removed meanwhile were recorded as removed before, and these records are listed
after the blobs are copied.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel, Field

from contracts.errors import Conflict
from registry.checkup import checked, keys_under
from registry.errors import RecordDamaged
from registry.kinds import kind_of
from registry.store import Store

ASIDE = "quarantine"
_FIRST = "versions/by-seq/0.json"
LATER = {"quarantine", "releases"}
"""Not copied; and copied after the blobs."""
_ORDER = (
    r"audit/.*",
    r"edits/[^/]+/end\.json",
    r"aliases/.*",
    r"versions/by-seq/.*",
    r"idempotency/.*",
    r"edits/by-seq/.*",
    r"keys/[^/]+/key\.json",
    r"keys/.*",
    r"edits/.*",
    r"versions/.*",
    r"models/.*",
    r"blobs/.*",
)
"""A file is listed with the first of these that fits it."""
_NUMBERED = re.compile(
    r"(audit|aliases/[^/]+|edits/[^/]+|versions/by-seq|releases)/(0|[1-9]\d*)\.json"
)


class Backup(BaseModel):
    """What was copied."""

    files: int = Field(default=0, description="that are in the copy now")
    copied: int = Field(default=0, description="of them, those that were not before")
    size: int = Field(default=0, description="bytes of those")
    damaged: list[str] = Field(default_factory=list, description="what was left out, and why")


def back_up(store: Store, copy: Store, folders: Sequence[str]) -> Backup:
    """Copy what `copy` lacks; services, workers and `memit prune` may run meanwhile.

    Args:
        folders: names of all folders of the registry. Those that are not known here are taken to
            name files of the others.

    Raises:
        Conflict: the copy is of another registry, or of one that went another way since.
        StorageError: a storage fails; the copy is as good as before.
    """
    if copy.get(_FIRST) not in (None, store.get(_FIRST)):
        raise _other(_FIRST)
    done = Backup()
    *others, blobs = list(_listed(store, folders))
    for key in blobs:
        _copy(store, copy, key, done)
    for keys in (_whole(keys_under(store, "releases")), *reversed(others)):
        for key in keys:
            _copy(store, copy, key, done)
    return done


def _listed(store: Store, folders: Sequence[str]) -> Iterator[list[str]]:
    """Keys, what names others before what it names, blobs last."""
    known = {pattern.partition("/")[0] for pattern in _ORDER}
    unknown = [(one, rf"{re.escape(one)}/.*") for one in sorted({*folders} - known - LATER)]
    earlier: list[str] = []
    for folder, pattern in (*unknown, *((one.partition("/")[0], one) for one in _ORDER)):
        yield _whole(
            key
            for key in keys_under(store, folder)
            if re.fullmatch(pattern, key) and not any(re.fullmatch(one, key) for one in earlier)
        )
        earlier.append(pattern)


def _whole(keys: Iterable[str]) -> list[str]:
    """The keys in order, logs by number and without gaps.

    A listing that is made while a log grows may leave out one number and have a later one.
    """
    plain: list[str] = []
    last: dict[str, int] = {}
    for key in keys:
        found = _NUMBERED.fullmatch(key)
        if found is None:
            plain.append(key)
        else:
            last[found[1]] = max(int(found[2]), last.get(found[1], 0))
    numbered = (f"{log}/{n}.json" for log, top in last.items() for n in range(top + 1))
    return [*plain, *numbered]


def _copy(store: Store, copy: Store, key: str, done: Backup) -> None:
    blob = key.startswith("blobs/")
    if blob and copy.exists(key):
        done.files += 1
        return
    try:
        data = store.get(key)
        if data is not None:
            _check(key, data)
    except RecordDamaged as error:
        done.damaged.append(str(error))
        return
    if data is None:
        return  # removed since it was listed
    if copy.put_if_absent(key, data):
        done.copied += 1
        done.size += len(data)
    elif copy.get(key) != data and not _derived(key):
        raise _other(key)
    done.files += 1


def _other(key: str) -> Conflict:
    return Conflict(
        f"{key} is another file there: that is a copy of another registry, or of this one before "
        "an older copy of it was put back; copy into an empty folder"
    )


def _check(key: str, data: bytes) -> None:
    if not key.startswith("blobs/"):
        checked(key, data)
    elif hashlib.sha256(data).hexdigest() != key.rpartition("/")[2]:
        raise RecordDamaged(key, "its bytes have another digest")


def _derived(key: str) -> bool:
    """Whether it may have been set aside and computed again."""
    kind = kind_of(key)
    return kind is not None and kind.derived

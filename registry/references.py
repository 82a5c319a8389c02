"""Files that others name: what is not there, and what nobody names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from contracts.edits import EditEnd, EditStep
from contracts.versions import AliasRecord, VersionManifest
from registry.acceptance import EditEntry
from registry.artefacts import Pointer
from registry.blobs import blob_key
from registry.errors import RecordDamaged
from registry.releases import PREFIX as RELEASES
from registry.releases import Release
from registry.store import Store
from registry.versions import VersionEntry

Sound = Mapping[str, BaseModel | None]


def missing(store: Store, sound: Sound) -> dict[str, str]:
    """Keys that should be there and are not, each with what says so.

    Args:
        sound: every file that can be read, by key, with its record; None for a blob.
    """
    given_up = _given_up(sound)
    found = {key: f"a later number of {key.rpartition('/')[0]} is there" for key in _gaps(store)}
    for file, named in named_by(sound):
        if named not in found and named not in given_up and not _there(store, named):
            found[named] = f"{file} names it"
    return found


def unnamed(store: Store, sound: Sound, solutions: bool = True) -> list[str]:
    """Manifests and blobs that nothing names: what a crash between two puts leaves, sorted.

    Args:
        solutions: that a solution names a blob counts, although it may do without.
    """
    named = {key for _, key in named_by(sound)}
    if solutions:
        named |= _of_solutions(store, sound)
    copies = {key.partition("-")[2].removesuffix(".json") for key in sound if _is_manifest(key)}
    return sorted(
        key
        for key in sound
        if key not in named
        and (_is_manifest(key) or key.startswith("blobs/"))
        and key.rpartition("/")[2][:12] not in copies
    )


def named_by(sound: Sound) -> Iterator[tuple[str, str]]:
    """(a file, a key that it cannot do without), of all."""
    entries = {
        record.version: key for key, record in sound.items() if isinstance(record, VersionEntry)
    }
    for file, record in sound.items():
        match record:
            case EditEntry():
                yield file, f"edits/{record.edit_id}/request.json"
            case VersionEntry():
                yield file, f"versions/{record.version}.json"
            case Pointer():
                yield file, blob_key(record.blob)
            case VersionManifest() if file.partition("/")[2].removesuffix(".json") in entries:
                yield file, blob_key(record.live)
                yield from ((file, blob_key(blob)) for blob in record.blobs)
            case AliasRecord():
                yield from ((file, _entry(version)) for version in record.versions)
            case EditStep(manifest=str(digest)):
                yield file, blob_key(digest)
            case EditEnd(version=str(version)):
                yield file, _entry(version)


def _of_solutions(store: Store, sound: Sound) -> set[str]:
    """Blobs of weights that a solution names; it is solved again without them."""
    return {
        blob_key(blob)
        for file, record in sound.items()
        if isinstance(record, Pointer) and "/solutions/" in file
        for blob in _solved(store, record.blob)
    }


def _given_up(sound: Sound) -> set[str]:
    """Blobs that are not missed where they are gone."""
    releases = [record for record in sound.values() if isinstance(record, Release)]
    versions = {f"versions/{version}.json" for one in releases for version in one.versions}
    weights = (
        blob
        for key in versions
        if isinstance(manifest := sound.get(key), VersionManifest)
        for blob in manifest.blobs
    )
    return {blob_key(blob) for blob in (*weights, *(one for r in releases for one in r.blobs))}


def _gaps(store: Store) -> Iterator[str]:
    """Numbers that are not there below the highest of their log."""
    edits = [f"edits/{name}" for name in _names(store, "edits")]
    aliases = [f"aliases/{name}" for name in _names(store, "aliases")]
    for log in (*edits, *aliases, "versions/by-seq", RELEASES):
        first = 0 if log in aliases else -1  # aliases begin at 1
        numbers = sorted(
            int(name.removesuffix(".json"))
            for name in _names(store, log)
            if re.fullmatch(r"\d+\.json", name)
        )
        for before, after in pairwise([first, *numbers]):
            yield from (f"{log}/{number}.json" for number in range(before + 1, after))


def _names(store: Store, folder: str) -> list[str]:
    """As `Store.names`; none below a symbolic link, which is a finding of its own."""
    try:
        return store.names(folder)
    except RecordDamaged:
        return []


def _there(store: Store, key: str) -> bool:
    """As `Store.exists`; what lies beyond a symbolic link is not gone."""
    try:
        return store.exists(key)
    except RecordDamaged:
        return True


def _solved(store: Store, blob: str) -> list[str]:
    """The blobs that a solution names; none if it is lost."""
    try:
        layers: list[dict[str, Any]] = json.loads(store.get(blob_key(blob)) or b"[]")
        return [str(layer["blob"]) for layer in layers]
    except (ValueError, KeyError, TypeError):
        return []


def _is_manifest(key: str) -> bool:
    return re.fullmatch(r"versions/v\d+-[0-9a-f]{12}\.json", key) is not None


def _entry(version: str) -> str:
    return f"versions/by-seq/{version[1:].partition('-')[0]}.json"

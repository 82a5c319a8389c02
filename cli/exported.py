"""What an export made: read from its folder, or from the archive that the service sends."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cli.errors import CommandFailed
from contracts.facts import LiveFact
from contracts.versions import Version

MANIFEST, FACTS, ADAPTER = "manifest.json", "facts.json", "adapter_model.safetensors"
_LIVE = TypeAdapter(list[LiveFact])


@dataclass(frozen=True)
class Exported:
    """A version that left, in any of the formats."""

    version: Version
    facts: list[LiveFact]
    read: Callable[[str], bytes | None]
    """A file of the folder by its name; None if there is none."""


def read_exported(source: Path) -> Exported:
    """Read the folder, tar or zip of an export; nothing is unpacked.

    Raises:
        CommandFailed: it cannot be read, or was not made by an export.
    """
    try:
        read = _reader(source)
        manifest, facts = read(MANIFEST), read(FACTS)
        if manifest is None or facts is None:
            missing = MANIFEST if manifest is None else FACTS
            raise CommandFailed(f"{source}: has no {missing}; `memit export` makes folders with it")
        return Exported(Version.model_validate_json(manifest), _LIVE.validate_json(facts), read)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise CommandFailed(f"{source}: cannot be read: {error}") from error
    except ValidationError as error:
        raise CommandFailed(f"{source}: was not made by an export: {error}") from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack what the service sent; names that lead out of `folder` are refused.

    Raises:
        CommandFailed: it is no whole archive.
        OSError: it cannot be written.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)  # noqa: S202 - it keeps names inside
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise CommandFailed(f"what the service sent is no whole archive: {error}") from error


def _reader(source: Path) -> Callable[[str], bytes | None]:
    if source.is_dir():
        return lambda name: (source / name).read_bytes() if (source / name).is_file() else None
    if zipfile.is_zipfile(source):
        return lambda name: _from_zip(source, name)
    return lambda name: _from_tar(source, name)


def _from_zip(source: Path, name: str) -> bytes | None:
    with zipfile.ZipFile(source) as packed:
        return packed.read(name) if name in packed.namelist() else None


def _from_tar(source: Path, name: str) -> bytes | None:
    with tarfile.open(source) as packed:
        member = next((one for one in packed if one.name == name), None)
        file = None if member is None else packed.extractfile(member)
        return None if file is None else file.read()

"""A version's files in a folder, which appears whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from memit_client.caller import Caller
from memit_client.endpoints import CHECKPOINT, GET_VERSION
from memit_client.errors import UnexpectedAnswer
from memit_client.fetch import fetch, fetch_blob

Format = Literal["delta", "peft"]
ARCHIVE = "adapter.tar"
SLOW_SECONDS = 1_800.0
"""An adapter of a large version is decomposed before its first byte is sent."""


async def download(
    caller: Caller, ref: str, to: Path, form: Format, params: Mapping[str, Any]
) -> None:
    """Make the folder `to`, which is new or empty.

    What was fetched before something broke lies beside it in a folder `.part`, and is not fetched
    again: a whole blob, or the part of one that is there.

    Raises:
        FileExistsError: there is something at `to`.
        OSError: it cannot be written.
        UnexpectedAnswer: a blob is not what its digest says, or an adapter no archive.
        MemitError: as for every call.
    """
    on_disk = caller.transport.on_disk
    manifest = await caller.raw(GET_VERSION, names={"ref": ref})
    version = GET_VERSION.read(manifest)
    key = hashlib.sha256(f"{version.id} {form} {sorted(params.items())}".encode()).hexdigest()
    part = to.with_name(f"{to.name}.{key[:8]}.part")
    await on_disk(partial(_begin, to, part))
    if form == "delta":
        for blob in dict.fromkeys(weights.blob for weights in version.weights):
            await fetch_blob(caller, blob, part / "weights" / f"{blob}.safetensors")
        await fetch_blob(caller, version.live, part / "facts.json")
        await on_disk(partial((part / "manifest.json").write_bytes, manifest))
    else:
        asked = {**params, "format": form}
        await fetch(
            caller,
            CHECKPOINT,
            part / ARCHIVE,
            names={"ref": version.id},
            params=asked,
            read_seconds=SLOW_SECONDS,
        )
        await on_disk(partial(_unpack, part / ARCHIVE, part))
    await on_disk(partial(_finish, part, to))


def _begin(to: Path, part: Path) -> None:
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise FileExistsError(f"{to} is there already, and not empty")
    (part / "weights").mkdir(parents=True, exist_ok=True)


def _finish(part: Path, to: Path) -> None:
    if not any((part / "weights").iterdir()):
        (part / "weights").rmdir()
    if to.exists():
        to.rmdir()
    part.rename(to)


def _unpack(archive: Path, folder: Path) -> None:
    """Names that lead out of the folder are refused."""
    try:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    except tarfile.TarError as error:
        shutil.rmtree(folder)
        raise UnexpectedAnswer(f"what the service sent is no whole archive: {error}") from error
    archive.unlink()

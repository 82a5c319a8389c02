"""One file from the service onto the disk, in one go or going on where it broke off."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import BinaryIO, Unpack

from memit_client.caller import Caller, Given
from memit_client.endpoints import BLOB, Route
from memit_client.errors import ConnectionFailed, Refused, UnexpectedAnswer

PART, NO_SUCH_PART = 206, 416


async def fetch(caller: Caller, route: Route, file: Path, **given: Unpack[Given]) -> None:
    """Write an answer to `file`, or behind what is in it where the answer is the rest.

    Raises:
        ConnectionFailed: it broke off; what came is in the file.
    """
    on_disk = caller.transport.on_disk
    async with (
        caller.streamed(route, **given) as answer,
        aclosing(answer.chunks()) as chunks,
    ):
        sink = await on_disk(partial(_opened, file, append=answer.status == PART))
        try:
            async for chunk in chunks:
                await on_disk(partial(sink.write, chunk))
        finally:
            await on_disk(sink.close)


async def fetch_blob(caller: Caller, digest: str, file: Path) -> None:
    """Write a blob to `file`, or only what `file` lacks of it.

    Raises:
        UnexpectedAnswer: it is not what its digest says; the file is gone then.
        ConnectionFailed: it broke off again and again without a byte of it.
    """
    on_disk = caller.transport.on_disk
    failures = 0
    while True:
        start, found = await on_disk(partial(_size_and_digest, file))
        if found == digest:
            return
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            await fetch(caller, BLOB, file, names={"digest": digest}, headers=headers)
        except ConnectionFailed:
            size, _ = await on_disk(partial(_size_and_digest, file))
            failures = 0 if size > start else failures + 1
            if failures > caller.max_retries:
                raise
        except Refused as error:
            if error.status != NO_SUCH_PART:
                raise
            await on_disk(file.unlink)
        else:
            _, found = await on_disk(partial(_size_and_digest, file))
            if found != digest:
                await on_disk(file.unlink)
                raise UnexpectedAnswer(f"blob {digest} came as {found}")


def _opened(file: Path, *, append: bool) -> BinaryIO:
    return file.open("ab") if append else file.open("wb")


def _size_and_digest(file: Path) -> tuple[int, str]:
    """Bytes, and SHA-256 in hex; those of nothing where there is no file."""
    if not file.exists():
        return 0, ""
    with file.open("rb") as data:
        return file.stat().st_size, hashlib.file_digest(data, "sha256").hexdigest()

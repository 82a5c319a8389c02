"""Folders below a root, opened part by part: a symbolic link among them is never followed.

Whoever may write into the registry's folder could else have a service read or write elsewhere. The
root itself may be a link, which only the operator sets.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class SymbolicLink(Exception):
    """There is a symbolic link at this path; `str()` is the path."""


@contextmanager
def opened(root: Path, parts: Sequence[str], create: bool = False) -> Iterator[int]:
    """A descriptor of the folder `root/parts[0]/…`, closed afterwards.

    Args:
        create: make what is missing, each folder durable in the one above.

    Raises:
        SymbolicLink: a part is one.
        OSError: a part is not there, or no folder.
    """
    if create:
        make_folder(root)
    here = os.open(root, _FOLDER)
    try:
        for depth, part in enumerate(parts, start=1):
            try:
                below = _below(here, part, create)
            except OSError as error:
                if _is_link(here, part):
                    raise SymbolicLink("/".join(parts[:depth])) from error
                raise
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def open_file(folder: int, name: str) -> BinaryIO:
    """A file in an open folder, for reading.

    Raises:
        SymbolicLink: it is one.
        OSError: it is not there, or cannot be read.
    """

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW, dir_fd=folder)

    try:
        return open(name, "rb", opener=opener)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SymbolicLink(name) from error
        raise


def status(folder: int, name: str) -> os.stat_result:
    """What is at a name in an open folder, be it a link."""
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def make_folder(folder: Path) -> None:
    """Create a root and its parents, each durable in its own parent; links are followed."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    above = os.open(folder.parent, _FOLDER)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def _below(here: int, part: str, create: bool) -> int:
    flags = _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(part, flags, dir_fd=here)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):  # another writer's
        os.mkdir(part, dir_fd=here)
    os.fsync(here)
    return os.open(part, flags, dir_fd=here)


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(status(folder, name).st_mode)
    except OSError:
        return False

"""A store in a local folder, or one that several machines mount."""

from __future__ import annotations

import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from registry.errors import RecordDamaged, StorageError
from registry.folders import SymbolicLink, make_folder, open_file, opened, status
from registry.store import PART, parts_of

CHUNK_BYTES = 2**20
_TEMPORARY = re.compile(r"\..*\.tmp")


class FolderStore:
    """A `Store` of files under `root`; below it no symbolic link is followed, see `opened`.

    A put writes `.<random>.tmp` beside the key and links it into place. A temporary file that a
    crash leaves behind is never seen as a key and does no harm.
    """

    def __init__(self, root: Path) -> None:
        """Create the folder if it is not there.

        Raises:
            StorageError: it cannot be created.
        """
        self.root = root
        with _as_storage_error(str(root)):
            make_folder(root)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store.put_if_absent`.

        A file is whole and visible although this raises only if syncing its folder failed.
        """
        *folders, name = parts_of(key)
        with _as_storage_error(key), opened(self.root, folders, create=True) as folder:
            if _taken(folder, name):
                os.fsync(folder)  # its writer may not have come that far
                return False
            return _link_new(folder, name, data)

    def get(self, key: str) -> bytes | None:
        with _as_storage_error(key):
            try:
                with self._open(key) as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes] | None:
        with _as_storage_error(key):
            try:
                return _chunks(self._open(key), key, start, stop)
            except FileNotFoundError:
                return None

    def size(self, key: str) -> int | None:
        found = self._status(key)
        return None if found is None else found.st_size

    def age(self, key: str) -> float | None:
        found = self._status(key)
        return None if found is None else _age(found)

    def exists(self, key: str) -> bool:
        return self._status(key) is not None

    def names(self, prefix: str) -> list[str]:
        with _as_storage_error(prefix):
            try:
                with opened(self.root, parts_of(prefix)) as folder:
                    found = os.listdir(folder)  # noqa: PTH208 - of a descriptor
            except FileNotFoundError:
                return []
        return sorted(name for name in found if PART.fullmatch(name))

    def replace_damaged(self, key: str, data: bytes) -> None:
        *folders, name = parts_of(key)
        with (
            _as_storage_error(key),
            opened(self.root, folders, create=True) as folder,
            opened(self.root, ["quarantine"], create=True) as quarantine,
            _written_beside(folder, data) as (temporary, _),
        ):
            with suppress(FileNotFoundError):  # somebody else has set it aside
                _link(folder, name, quarantine, _aside(name))
                os.fsync(quarantine)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def set_aside(self, key: str) -> str | None:
        *folders, name = parts_of(key)
        aside = _aside(name)
        with (
            _as_storage_error(key),
            opened(self.root, ["quarantine"], create=True) as quarantine,
        ):
            try:
                with opened(self.root, folders) as folder:
                    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=quarantine)
                    os.fsync(folder)
            except FileNotFoundError:
                return None
            os.fsync(quarantine)
        return f"quarantine/{aside}"

    def remove(self, key: str, idle: float) -> bool:
        *folders, name = parts_of(key)
        with _as_storage_error(key):
            try:
                with opened(self.root, folders) as folder:
                    return _remove(folder, name, idle)
            except FileNotFoundError:
                return False

    def temporary(self, seconds: float) -> list[str]:
        """Temporary files that writers left behind, sorted; paths from the root.

        Args:
            seconds: at least so old. A put takes far less than an hour, so one of that age is
                nobody's any more.
        """
        found = []
        for folder, _, names in os.walk(self.root):  # which follows no links
            place = Path(folder).relative_to(self.root)
            paths = [place / name for name in names if _TEMPORARY.fullmatch(name)]
            found += [path.as_posix() for path in paths if self._older(path, seconds)]
        return sorted(found)

    def remove_temporary(self, seconds: float) -> list[str]:
        """Delete what `temporary` says; the same paths."""
        found = self.temporary(seconds)
        for path in found:
            *folders, name = path.split("/")
            with (
                _as_storage_error(path),
                suppress(FileNotFoundError),  # another one deletes them too
                opened(self.root, folders) as folder,
            ):
                os.unlink(name, dir_fd=folder)
        return found

    def _open(self, key: str) -> BinaryIO:
        *folders, name = parts_of(key)
        with opened(self.root, folders) as folder:
            return open_file(folder, name)

    def _status(self, key: str) -> os.stat_result | None:
        *folders, name = parts_of(key)
        with _as_storage_error(key):
            try:
                with opened(self.root, folders) as folder:
                    return status(folder, name)
            except FileNotFoundError:
                return None

    def _older(self, path: Path, seconds: float) -> bool:
        with _as_storage_error(path.as_posix()):
            try:
                return _age((self.root / path).lstat()) >= seconds
            except FileNotFoundError:
                return False  # its writer has just ended


@contextmanager
def _as_storage_error(key: str) -> Iterator[None]:
    try:
        yield
    except SymbolicLink as link:
        what = "it" if key.endswith(str(link)) else str(link)
        raise RecordDamaged(key, f"{what} is a symbolic link, which is not followed") from link
    except OSError as error:
        raise StorageError(f"{key}: {error.strerror or error}") from error


def _taken(folder: int, name: str) -> bool:
    """Whether the name is taken; what has it counts as put just now, see `Store.remove`."""
    try:
        if stat.S_ISLNK(status(folder, name).st_mode):
            raise SymbolicLink(name)
        with suppress(PermissionError):  # of another user's file
            os.utime(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _link_new(folder: int, name: str, data: bytes) -> bool:
    """Write `data` beside `name` and link it there; False if another writer was first."""
    with _written_beside(folder, data) as (temporary, file):
        try:
            _link(folder, temporary, folder, name)
            won = True
        except FileExistsError:
            # A network file system may repeat a link that had succeeded (open(2), O_EXCL).
            won = os.fstat(file.fileno()).st_nlink == 2
        os.fsync(folder)
    return won


@contextmanager
def _written_beside(folder: int, data: bytes) -> Iterator[tuple[str, BinaryIO]]:
    """Name and file of a temporary one with `data`, gone at the end."""
    temporary = f".{uuid.uuid4().hex}.tmp"
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(temporary, new, 0o666, dir_fd=folder), "wb") as file:  # noqa: PTH123
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield temporary, file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)


def _aside(name: str) -> str:
    return f"{name}.{uuid.uuid4().hex}"


def _remove(folder: int, name: str, idle: float) -> bool:
    """See `Store.remove`. A put that finds the name taken makes it young, before or after."""
    if _age(status(folder, name)) < idle:
        return False
    aside = f".{uuid.uuid4().hex}.tmp"
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    young = _age(status(folder, aside)) < idle
    if young:
        with suppress(FileExistsError):  # it was put anew
            _link(folder, aside, folder, name)
    os.unlink(aside, dir_fd=folder)
    os.fsync(folder)
    return not young


def _link(folder: int, old: str, other: int, new: str) -> None:
    os.link(old, new, src_dir_fd=folder, dst_dir_fd=other, follow_symlinks=False)


def _age(found: os.stat_result) -> float:
    return max(0.0, time.time() - found.st_mtime)


def _chunks(file: BinaryIO, key: str, start: int, stop: int | None) -> Iterator[bytes]:
    with file, _as_storage_error(key):
        file.seek(start)
        left = float("inf") if stop is None else stop - start
        while left > 0 and (chunk := file.read(int(min(CHUNK_BYTES, left)))):
            left -= len(chunk)
            yield chunk

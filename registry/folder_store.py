"""A store in a local folder, or one that several machines mount."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from registry.errors import StorageError
from registry.store import PART, parts_of

CHUNK_BYTES = 2**20


class FolderStore:
    """A `Store` of files under `root`.

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
            _make_folder(root)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `Store.put_if_absent`.

        A file is whole and visible although this raises only if syncing its folder failed.
        """
        path = self._path(key)
        with _as_storage_error(key):
            if path.exists():
                _sync_folder(path.parent)  # its writer may not have come that far
                return False
            _make_folder(path.parent)
            return _link_new(path, data)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        with _as_storage_error(key):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes] | None:
        path = self._path(key)
        with _as_storage_error(key):
            try:
                return _chunks(path.open("rb"), key, start, stop)
            except FileNotFoundError:
                return None

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with _as_storage_error(key):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with _as_storage_error(key):
            return path.exists()

    def names(self, prefix: str) -> list[str]:
        folder = self._path(prefix)
        with _as_storage_error(prefix):
            try:
                found = [path.name for path in folder.iterdir()]
            except FileNotFoundError:
                return []
        return sorted(name for name in found if PART.fullmatch(name))

    def replace_damaged(self, key: str, data: bytes) -> None:
        path, target = self._path(key), self._path(_aside(key))
        with _as_storage_error(key):
            _make_folder(target.parent)
            _make_folder(path.parent)
            with suppress(FileNotFoundError):  # somebody else has set it aside
                target.hardlink_to(path)
                _sync_folder(target.parent)
            with _written_beside(path, data) as temporary:
                temporary.replace(path)
                _sync_folder(path.parent)

    def set_aside(self, key: str) -> str | None:
        path, aside = self._path(key), _aside(key)
        target = self._path(aside)
        with _as_storage_error(key):
            _make_folder(target.parent)
            try:
                path.rename(target)
            except FileNotFoundError:
                return None
            _sync_folder(path.parent)
            _sync_folder(target.parent)
        return aside

    def temporary(self, seconds: float) -> list[str]:
        """Temporary files that writers left behind, sorted; paths from the root.

        Args:
            seconds: at least so old. A put takes far less than an hour, so one of that age is
                nobody's any more.
        """
        before = time.time() - seconds
        with _as_storage_error(str(self.root)):
            found = (path for path in self.root.rglob(".*.tmp") if _older(path, before))
            return sorted(path.relative_to(self.root).as_posix() for path in found)

    def remove_temporary(self, seconds: float) -> list[str]:
        """Delete what `temporary` says; the same paths."""
        found = self.temporary(seconds)
        for name in found:
            with _as_storage_error(name):
                (self.root / name).unlink(missing_ok=True)
        return found

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*parts_of(key))


@contextmanager
def _as_storage_error(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{key}: {error.strerror or error}") from error


def _link_new(path: Path, data: bytes) -> bool:
    """Write `data` beside `path` and link it there; False if another writer was first."""
    with _written_beside(path, data) as temporary:
        try:
            path.hardlink_to(temporary)
            won = True
        except FileExistsError:
            # A network file system may repeat a link that had succeeded (open(2), O_EXCL).
            won = temporary.stat().st_nlink == 2
        _sync_folder(path.parent)
    return won


@contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file with `data` in the folder of `path`, gone at the end."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _aside(key: str) -> str:
    return f"quarantine/{parts_of(key)[-1]}.{uuid.uuid4().hex}"


def _older(path: Path, than: float) -> bool:
    try:
        return path.stat().st_mtime <= than
    except FileNotFoundError:
        return False  # its writer has just ended


def _chunks(file: BinaryIO, key: str, start: int, stop: int | None) -> Iterator[bytes]:
    with file, _as_storage_error(key):
        file.seek(start)
        left = float("inf") if stop is None else stop - start
        while left > 0 and (chunk := file.read(int(min(CHUNK_BYTES, left)))):
            left -= len(chunk)
            yield chunk


def _make_folder(folder: Path) -> None:
    """Create `folder` and its parents, each durable in its own parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

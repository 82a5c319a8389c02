"""The one primitive under everything: put a whole file if it is absent, on a local folder.

Nothing is ever overwritten or deleted, so whatever was read once may be kept for good, and every
race between threads, processes or machines is decided by which put came first.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Store:
    """Immutable files under `root`, named by keys such as `edits/edit-01/request.json`.

    A put writes `.<random>.tmp` beside the key and links it into place. A temporary file that a
    crash leaves behind is never seen as a key and does no harm.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        _make_folder(root)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put `data` under `key` unless something is there; durable when this returns.

        Returns:
            True if this call put it, False if the key was taken.

        Raises:
            ValueError: the key is not safe as a path.
            OSError: the disk is full or broken. Nothing is visible then, unless syncing the folder
                itself failed: the whole file then stands, since others may have built on it, and
                repeating the put says False.
        """
        path = self._path(key)
        if path.exists():
            _sync_folder(path.parent)  # its writer may not have come that far
            return False
        _make_folder(path.parent)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(temporary)
                won = True
            except FileExistsError:
                # A network file system may repeat a link that had succeeded (open(2), O_EXCL).
                won = temporary.stat().st_nlink == 2
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return won

    def get(self, key: str) -> bytes | None:
        """The bytes under `key`; None if there are none."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Whether something is under `key`."""
        return self._path(key).exists()

    def names(self, prefix: str) -> list[str]:
        """Sorted names of what lies directly in the folder `prefix`; empty if there is none."""
        try:
            found = [path.name for path in self._path(prefix).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if _PART.fullmatch(name))

    def set_aside(self, key: str) -> str | None:
        """Rename what is under `key` into `quarantine/`; the new key, or None if nothing was there.

        Only for bytes that are known to be damaged: the key is free again afterwards.
        """
        path = self._path(key)
        aside = f"quarantine/{path.name}.{uuid.uuid4().hex}"
        target = self._path(aside)
        _make_folder(target.parent)
        try:
            path.rename(target)
        except FileNotFoundError:
            return None
        _sync_folder(path.parent)
        _sync_folder(target.parent)
        return aside

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(_PART.fullmatch(part) for part in parts):
            raise ValueError(f"not a safe key: {key!r}")
        return self.root.joinpath(*parts)


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

"""How much memory there is for this process: the machine's, or less where a container limits it.

Linux counts what a container (a control group) takes, and ends its processes beyond the limit;
the machine's own figures know nothing of that. Read from the files of cgroups(7), version 2 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/")


@dataclass(frozen=True)
class _Names:
    """Of the files of one version of control groups."""

    controller: str
    """In the second field of `/proc/self/cgroup`."""
    folder: str
    limit: str
    used: str
    cached: str
    """The line of `memory.stat` with what files have in memory that can go at once."""


_VERSIONS = (
    _Names("", "", "memory.max", "memory.current", "inactive_file"),
    _Names(
        "memory",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def total_memory(root: Path = ROOT) -> int:
    """Bytes that this process may ever have.

    Args:
        root: of the file system.
    """
    limits = [limit for limit, _ in _limits(root)]
    return min([int(psutil.virtual_memory().total), *limits])


def available_memory(root: Path = ROOT) -> int:
    """Bytes that it can still take without ending anything.

    Args:
        root: of the file system.
    """
    rests = [max(0, limit - used) for limit, used in _limits(root)]
    return min([int(psutil.virtual_memory().available), *rests])


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of each control group around this process that has a limit."""
    # Empty where this is no Linux, or where it is hidden.
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for names in _VERSIONS:
            if names.controller in controllers.split(","):
                mounted = root / "sys/fs/cgroup" / names.folder
                # A container may see its own group as the root, whatever the path says.
                own = PurePosixPath(path.lstrip("/"))
                for group in (own, *own.parents):
                    yield from _limit(mounted / group, names)


def _limit(group: Path, names: _Names) -> Iterator[tuple[int, int]]:
    limit = _read(group / names.limit)
    if limit.isdigit():  # else "max", or the root of version 2, which has no such file
        stat = dict(line.split(maxsplit=1) for line in _read(group / "memory.stat").splitlines())
        yield int(limit), int(_read(group / names.used) or 0) - int(stat.get(names.cached, 0))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""

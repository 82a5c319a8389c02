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
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux, or hidden
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for names in _VERSIONS:
            if names.controller in controllers.split(","):
                mounted = root / "sys/fs/cgroup" / names.folder
                # A container may see its own group as the root, whatever the path says.
                for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                    yield from _limit(mounted / group.relative_to("/"), names)


def _limit(group: Path, names: _Names) -> Iterator[tuple[int, int]]:
    try:
        limit = (group / names.limit).read_text().strip()
        used = int((group / names.used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # the root of version 2 has no such files
        return
    if limit != "max":
        yield int(limit), used - int(stat.get(names.cached, 0))

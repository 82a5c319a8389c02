"""How much memory there is for this process: the machine's, or less where a container limits it.

Linux counts what a container (a control group) takes, and ends its processes beyond the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from memit_core.control_groups import ROOT, VERSION_2, control_groups, read


@dataclass(frozen=True)
class _Names:
    """Of the files of one version of control groups."""

    controller: str
    limit: str
    used: str
    cached: str
    """The line of `memory.stat` with what files have in memory that can go at once."""


_VERSIONS = (
    _Names(VERSION_2, "memory.max", "memory.current", "inactive_file"),
    _Names("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
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
    for names in _VERSIONS:
        for group in control_groups(names.controller, root):
            limit = read(group / names.limit)
            if limit.isdigit():  # else "max", or the root of version 2, which has no such file
                lines = read(group / "memory.stat").splitlines()
                stat = dict(line.split(maxsplit=1) for line in lines)
                used = int(read(group / names.used) or 0) - int(stat.get(names.cached, 0))
                yield int(limit), used

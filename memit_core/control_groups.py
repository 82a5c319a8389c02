"""Control groups of Linux (a container, a pod, a service), whose limits the machine's own figures
do not know: the folders with their files, of versions 2 and 1 (cgroups(7)).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
VERSION_2 = ""
"""In place of a controller's name."""


def control_groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Folders of the groups around this process, its own first; some may not exist.

    Args:
        controller: of version 1, as in the second field of `/proc/self/cgroup`, or `VERSION_2`.
        root: of the file system.
    """
    # Empty where this is no Linux, or where it is hidden.
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            # A container may see its own group as the root, whatever the path says.
            own = PurePosixPath(path.lstrip("/"))
            for group in (own, *own.parents):
                yield root / "sys/fs/cgroup" / controller / group


def read(file: Path) -> str:
    """Its text; empty where there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""

"""A fuse: what shall happen when a process of the service comes to a named point.

It is a file in the home folder, so that it can be laid while processes run, and in a process that
does not know of it. Only processes whose id the test wrote into it are killed.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

LAID, BURNT = "fuse.json", "fuse-burnt.json"


def lay(home: Path, point: str, do: str, *, nth: int = 1, pid: int = 0, times: int = 1) -> None:
    """Have `do` happen when `point` is reached for the nth time from now on.

    Args:
        do: `kill` (the process `pid`; 0: the one that is there), `sleep`, `no space`, `read-only`,
            `memory`, `device memory`, or anything else, which the point itself knows to do.
        times: it happens at so many times in a row; 0: until it is taken away.
    """
    take_away(home)
    fuse = {
        "id": uuid.uuid4().hex,
        "point": point,
        "do": do,
        "nth": nth,
        "pid": pid,
        "times": times,
    }
    new = home / f".{fuse['id']}"
    new.write_text(json.dumps(fuse))
    new.replace(home / LAID)


def take_away(home: Path) -> None:
    """Nothing happens any more."""
    for name in (LAID, BURNT):
        (home / name).unlink(missing_ok=True)


def is_burnt(home: Path) -> bool:
    """Whether what was laid has happened."""
    return (home / BURNT).exists()


class Watch:
    """One process's look at the fuse of its home."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._reached: Counter[str] = Counter()
        self._lock = threading.Lock()

    def at(self, point: str) -> str | None:
        """Do what is laid for this point; the name of what the caller has to do itself.

        Raises:
            OSError, MemoryError, torch.OutOfMemoryError: as the fuse says.
        """
        fuse = self._laid(point)
        if fuse is None:
            return None
        with self._lock:
            self._reached[fuse["id"]] += 1
            late = self._reached[fuse["id"]] - fuse["nth"]
        if late < 0 or (fuse["times"] and late >= fuse["times"]):
            return None
        if fuse["times"] and late == fuse["times"] - 1:
            try:
                (self._home / LAID).replace(self._home / BURNT)
            except FileNotFoundError:
                return None  # another process was there first
        return _do(fuse)

    def _laid(self, point: str) -> dict[str, Any] | None:
        try:
            fuse: dict[str, Any] = json.loads((self._home / LAID).read_text())
        except FileNotFoundError:
            return None
        return fuse if fuse["point"] == point else None


def _do(fuse: dict[str, Any]) -> str | None:
    do = fuse["do"]
    if do == "kill":
        os.kill(fuse["pid"] or os.getpid(), signal.SIGKILL)
    elif do == "sleep":
        time.sleep(0.2)
    elif do == "no space":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif do == "read-only":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    elif do == "memory":
        raise MemoryError
    elif do == "device memory":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory (made up)")
    else:
        return str(do)
    return None

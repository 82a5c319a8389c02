"""Run a command that the kernel kills when the process that started it ends, however it ends.

Run as a script, this file asks for the signal and then becomes the command, so nothing of ours
runs between fork and exec. Linux only (prctl(2), PR_SET_PDEATHSIG); elsewhere the command runs as
it is, and only an orderly stop ends it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` and has it killed with the caller.

    The kernel watches the thread that starts it: start it from one that lives as long as the
    command shall.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-IS", __file__, str(os.getpid()), *command]


def main() -> None:
    """`parent_death.py PARENT_PID COMMAND...`: ask for the signal, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could ask
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  (the caller's fixed argument list, no shell)


if __name__ == "__main__":
    main()

"""A child process of ours: its log file, how it starts, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.log_lines import record_of, said
from cli.parent_death import dying_with_parent

LOG_BYTES = 10 * 2**20
READ_BYTES = 2**16
"""So much of a log is read to say what a child does or why it ended."""
POLL_SECONDS = 0.02


class ChildFailed(RuntimeError):
    """A child did not come up."""


class Child:
    """A process that is killed with us, in a session of its own so that Ctrl-C reaches only us."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        grace: float = 10.0,
    ) -> None:
        """
        Args:
            name: what people call it.
            command: the program and its arguments.
            log: file that its output is added to.
            env: its whole environment; by default ours.
            grace: seconds it may take to end when asked to.
        """
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = env
        self.grace = grace
        self.process: subprocess.Popen[bytes] | None = None
        self.log_begin = 0
        """Where this life's part of the log begins."""

    def start(self) -> None:
        """Start it; returns at once.

        Raises:
            ChildFailed: it did not come up (for children that know when they are up).
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab") as out:
            self.log_begin = out.tell()
            self.process = subprocess.Popen(
                dying_with_parent(self.command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.env,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), or None while it runs."""
        return None if self.process is None else self.process.poll()

    def stop(self) -> bool:
        """Ask it to end and wait for it; kill it when its grace is over.

        Returns:
            Whether it ended by itself.
        """
        if self.process is None:
            return True
        self.process.terminate()
        deadline = time.monotonic() + self.grace
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        by_itself = self.process.poll() is not None
        self.kill()
        return by_itself

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def written(self) -> str:
        """What it has written in this life, the end of it."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(self.log_begin, log.seek(0, os.SEEK_END) - READ_BYTES))
            return log.read().decode(errors="replace")

    def last_line(self) -> str:
        """The last line that it has written, or empty; of a progress bar its last state."""
        return (self.written().rstrip().splitlines() or [""])[-1]

    def reason(self) -> str:
        """Why it ended, as far as its log says: a last record of an error whole, else a line."""
        lines = self.written().rstrip().splitlines()
        begins = [(at, one.level) for at, line in enumerate(lines) if (one := record_of(line))]
        at, level = begins[-1] if begins else (0, "")
        last = lines[at:]
        if level not in ("ERROR", "CRITICAL") or any(one.startswith("Traceback ") for one in last):
            last = last[-1:]
        return "\n".join([said(one) for one in last[:1]] + last[1:])


def how_it_ended(code: int) -> str:
    """`exit code 1`, or `killed by SIGKILL` for a negative code."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

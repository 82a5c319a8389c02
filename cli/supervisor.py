"""Starts the children, starts them again when they die, and stops them all, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Thread

from cli.child import Child, ChildFailed, how_it_ended
from cli.errors import CommandFailed

TICK_SECONDS = 0.05
CANNOT_START = 2
"""Exit code of a child that refuses what it was given: a wrong setting, no such model."""


@dataclass(frozen=True)
class Patience:
    """When a dead child is started again, and when that is given up; seconds."""

    quick: float = 60.0
    """A life shorter than this is a quick death."""
    deaths: int = 5
    """So many quick deaths in a row are enough."""
    first_delay: float = 0.5
    """Delay after the first quick death; it doubles with each further one."""
    longest_delay: float = 15.0

    def delay(self, quick_deaths: int) -> float:
        return float(min(self.first_delay * 2.0 ** max(quick_deaths - 1, 0), self.longest_delay))


@dataclass
class _Watched:
    child: Child
    started_at: float
    quick_deaths: int = 0
    lives: int = 1
    start_again_at: float | None = None


class Supervisor:
    """Runs children in the calling thread until `stop`.

    Children die with the thread that started them, so `run` does everything in one.
    """

    def __init__(
        self,
        children: Sequence[Child],
        report: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        """
        Args:
            children: in the order of starting; they are stopped in the reverse order.
            report: told, in one line, what happens.
            patience: when to start again and when to give up.
        """
        self.children = list(children)
        self._report = report
        self._patience = patience or Patience()
        # A plain flag, not an Event: `stop` is called from signal handlers.
        self.stopping = False
        """Whether it was asked to stop."""

    def run(self) -> None:
        """Start the children, watch them until `stop`, then stop them.

        Raises:
            CommandFailed: a child did not come up, or died too often; the others are stopped.
        """
        with ExitStack() as started:
            watched = []
            for child in self.children:
                if self.stopping:
                    return
                started.callback(self._stop_child, child)
                self._start(child)
                watched.append(_Watched(child, time.monotonic()))
            while not self.stopping:
                for one in watched:
                    self._look_after(one)
                time.sleep(TICK_SECONDS)
            self._report("stopping")

    def stop(self) -> None:
        """Let `run` end; asked a second time, kill what is still running. Safe in handlers."""
        if self.stopping:
            for child in self.children:
                if child.process is not None:
                    child.process.kill()
        self.stopping = True

    def _start(self, child: Child) -> None:
        try:
            child.start()
        except (ChildFailed, OSError) as error:
            raise CommandFailed(f"{child.name}: {error}") from error
        self._report(_started(child, "started"))

    def _look_after(self, one: _Watched) -> None:
        if one.start_again_at is None:
            code = one.child.poll()
            if code is not None:
                # Refused at the very first start, it would be so again; later it may be the disk.
                hopeless = code == CANNOT_START and one.lives == 1
                self._died(one, how_it_ended(code), one.child.reason(), hopeless=hopeless)
        elif time.monotonic() >= one.start_again_at:
            one.start_again_at = None
            one.started_at = time.monotonic()
            one.lives += 1
            try:
                one.child.start()
            except (ChildFailed, OSError) as error:
                self._died(one, str(error))
            else:
                self._report(_started(one.child, "started again"))

    def _died(self, one: _Watched, how: str, reason: str = "", *, hopeless: bool = False) -> None:
        name = one.child.name
        quick = time.monotonic() - one.started_at < self._patience.quick
        one.quick_deaths = one.quick_deaths + 1 if quick else 0
        if hopeless:
            self._report(f"{name} ended ({how}); its log is {one.child.log}")
            why = reason.removeprefix("cannot start: ") or how
            raise CommandFailed(f"{name} cannot start: {why}")
        if one.quick_deaths >= self._patience.deaths:
            times = f"{one.quick_deaths} times in a row soon after its start"
            self._report(f"{name} is given up; its log is {one.child.log}")
            why = f": {reason}" if reason else ""
            raise CommandFailed(f"{name} ended {times} ({how}){why}")
        delay = self._patience.delay(one.quick_deaths)
        self._report(f"{one.child.name} ended ({how}); starting it again in {delay:g} s")
        one.start_again_at = time.monotonic() + delay

    def _stop_child(self, child: Child) -> None:
        if child.process is not None and child.poll() is None:
            by_itself = child.stop()
            self._report(f"{child.name} stopped" + ("" if by_itself else " (killed)"))


def _started(child: Child, how: str) -> str:
    pid = child.process.pid if child.process else None
    return f"{child.name} {how} (pid {pid}, log {child.log})"


@contextmanager
def in_background(supervisor: Supervisor) -> Iterator[Thread]:
    """Run the supervisor in a thread while the context lasts; the thread ends when it gives up.

    Raises:
        CommandFailed: it gave up; instead of what that led to in the context.
    """
    failed: list[CommandFailed] = []

    def run() -> None:
        try:
            supervisor.run()
        except CommandFailed as failure:
            failed.append(failure)

    thread = Thread(target=run, name="supervisor")
    thread.start()
    try:
        yield thread
    finally:
        supervisor.stop()
        thread.join()
        if failed:
            raise failed[0]

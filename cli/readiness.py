"""Says what the service still waits for, and when it is ready to answer and to edit."""

from __future__ import annotations

import re
import threading
import time
from enum import IntEnum
from typing import Self

import redis
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from cli.client import Client, ProblemAnswer
from cli.embedded import Embedded
from cli.errors import CommandFailed
from cli.log_lines import record_of, said
from cli.output import say
from contracts.transport import STARTING_KEYS, WORKER_KEYS
from contracts.workers import WorkerStarting, WorkerStatus

POLL_SECONDS = 0.5
SAY_SECONDS = 15.0
"""Between two lines on what is done, where there is no terminal to show it on."""
SILENT_SECONDS = 600.0
"""A worker that neither moves nor logs for so long hangs."""

BAR = re.compile(r"\|.*\|")
"""What a progress bar draws, which a status line has no room for."""


class Phase(IntEnum):
    """How far the service is."""

    STARTING = 0
    ANSWERS = 1
    EDITS = 2


class Readiness:
    """Watches the embedded service from a thread of its own while the context lasts."""

    def __init__(self, house: Embedded, console: Console) -> None:
        self.phase = Phase.STARTING
        self.doing = "starting"
        """What it waits for, in words."""
        self._house = house
        self._console = console
        self._begun = self._said_at = self._moved_at = time.monotonic()
        self._stages: list[str] = []
        self._steps: set[tuple[str, int]] = set()
        self._most_logged = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="readiness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def wait(self, supervisor: threading.Thread) -> None:
        """Wait until it edits, however long that takes, as long as something moves.

        Raises:
            CommandFailed: nothing has moved for `SILENT_SECONDS`, or the supervisor has ended.
        """
        while self.phase is not Phase.EDITS:
            time.sleep(0.1)
            if not supervisor.is_alive():
                raise CommandFailed(f"the service ended before it was ready: {self.doing}")
            if time.monotonic() - self._moved_at > SILENT_SECONDS:
                raise CommandFailed(
                    f"not ready, and nothing new has happened for {SILENT_SECONDS:.0f} s "
                    f"(log {self._house.worker.log}); the last was: {self.doing}"
                )

    def _watch(self) -> None:
        with Client(self._house.url) as client, Status("starting", console=self._console) as status:
            while not self._over.wait(POLL_SECONDS):
                missing = _missing(client)
                up, starting = self._workers()
                edits = any(one.edit_ready for one in up)
                advice = [one.advice for one in up if one.advice]
                phase = Phase.STARTING if missing else Phase.EDITS if edits else Phase.ANSWERS
                if self._house.supervisor.stopping:
                    return
                if phase != self.phase:
                    self._begun = time.monotonic()
                    self._tell(phase, missing, advice)
                    self.phase = phase
                self._look(missing, starting)
                if phase is Phase.EDITS:
                    status.stop()
                    continue
                seconds = f"({time.monotonic() - self._begun:.0f} s)"
                room = self._console.width - len("⠋  ...  ") - len(seconds)
                status.update(f"{escape(self.doing[:room])} ... {seconds}")
                status.start()
                self._say_now_and_then(seconds, [one.progress.stage for one in starting])

    def _workers(self) -> tuple[list[WorkerStatus], list[WorkerStarting]]:
        """The workers that are up, and those on the way there."""
        try:
            with redis.Redis.from_url(self._house.redis_url) as client:
                up = client.mget(list(client.scan_iter(WORKER_KEYS)) or ["none"])
                starting = client.mget(list(client.scan_iter(STARTING_KEYS)) or ["none"])
        except redis.RedisError:
            return [], []
        return (
            [WorkerStatus.model_validate_json(text) for text in up if text],
            [WorkerStarting.model_validate_json(text) for text in starting if text],
        )

    def _look(self, missing: str | None, starting: list[WorkerStarting]) -> None:
        """See what is done, and whether anything moved since the last look."""
        worker = self._house.worker
        line = worker.last_line()
        if starting:
            # Records say what the worker told Redis; what is none may be the bar of a download.
            bar = "" if not line or record_of(line) else f" ({BAR.sub('', line)})"
            self.doing = f"worker: {'; '.join(one.doing for one in starting)}{bar}"
        elif worker.process is not None and not line:
            self.doing = "worker: loading its libraries"
        else:
            self.doing = said(line) or missing or ""
        # A worker that dies and begins again repeats itself: only what is new is a move.
        new = {(one.progress.stage, one.progress.done) for one in starting} - self._steps
        logged = worker.log.stat().st_size - worker.log_begin if worker.log.exists() else 0
        if new or logged > self._most_logged:
            self._moved_at = time.monotonic()
        self._steps |= new
        self._most_logged = max(self._most_logged, logged)

    def _say_now_and_then(self, seconds: str, stages: list[str]) -> None:
        now = time.monotonic()
        if self._console.is_terminal:
            return
        if (stages and stages != self._stages) or now - self._said_at > SAY_SECONDS:
            self._stages, self._said_at = stages, now
            say(self._console, f"{self.doing} {seconds}")

    def _tell(self, phase: Phase, missing: str | None, advice: list[str]) -> None:
        if phase is Phase.STARTING:
            say(self._console, f"not ready any more: {missing}")
        if phase > self.phase:
            if self.phase is Phase.STARTING:
                url = self._house.url
                say(self._console, f"answers at {url}; API docs at {url}/docs")
            if phase is Phase.EDITS:
                say(self._console, "ready to edit")
                for line in dict.fromkeys(advice):
                    say(self._console, f"note: {line}", style="yellow")


def _missing(client: Client) -> str | None:
    """What is not there yet; None when the service is ready."""
    try:
        client.call("GET", "/readyz")
    except ProblemAnswer as answer:
        return ", ".join(f"{one.field} {one.reason}" for one in answer.problem.errors)
    except CommandFailed:
        return "the API does not answer yet"
    return None

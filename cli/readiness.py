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
from cli.output import say
from contracts.transport import WORKER_KEYS
from contracts.workers import WorkerStatus

POLL_SECONDS = 0.5
LOG_PREFIX = re.compile(r"^[\d-]+ [\d:,]+ [A-Z]+ \S+: ")
"""Time, level and logger, which a status line has no room for."""


class Phase(IntEnum):
    """How far the service is."""

    STARTING = 0
    ANSWERS = 1
    EDITS = 2


class Readiness:
    """Watches the embedded service from a thread of its own while the context lasts."""

    def __init__(self, house: Embedded, console: Console) -> None:
        self.phase = Phase.STARTING
        self._house = house
        self._console = console
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="readiness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        begun = time.monotonic()
        with Client(self._house.url) as client, Status("starting", console=self._console) as status:
            while not self._over.wait(POLL_SECONDS):
                missing = _missing(client)
                phase = Phase.STARTING if missing else self._edits_too()
                if self._house.supervisor.stopping:
                    return
                if phase != self.phase:
                    begun = time.monotonic()
                    self._tell(phase, missing)
                    self.phase = phase
                if phase is Phase.EDITS:
                    status.stop()
                    continue
                doing = LOG_PREFIX.sub("", self._house.worker.last_line()) or missing or ""
                room = self._console.width - len("⠋ ... (9999 s) ")
                status.update(f"{escape(doing[:room])} ... ({time.monotonic() - begun:.0f} s)")
                status.start()

    def _edits_too(self) -> Phase:
        """ANSWERS, or EDITS once a worker has prepared what an edit needs."""
        try:
            with redis.Redis.from_url(self._house.redis_url) as client:
                found = client.mget(list(client.scan_iter(WORKER_KEYS)) or ["none"])
        except redis.RedisError:
            return Phase.ANSWERS
        workers = [WorkerStatus.model_validate_json(text) for text in found if text]
        return Phase.EDITS if any(worker.edit_ready for worker in workers) else Phase.ANSWERS

    def _tell(self, phase: Phase, missing: str | None) -> None:
        if phase is Phase.STARTING:
            say(self._console, f"not ready any more: {missing}")
        if phase > self.phase:
            if self.phase is Phase.STARTING:
                url = self._house.url
                say(self._console, f"answers at {url}; API docs at {url}/docs")
            if phase is Phase.EDITS:
                say(self._console, "ready to edit")


def _missing(client: Client) -> str | None:
    """What is not there yet; None when the service is ready."""
    try:
        client.call("GET", "/readyz")
    except ProblemAnswer as answer:
        return ", ".join(f"{one.field} {one.reason}" for one in answer.problem.errors)
    except CommandFailed:
        return "the API does not answer yet"
    return None

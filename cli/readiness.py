"""Says when the service becomes ready, and when it stops being so."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from cli.client import Client, ProblemAnswer
from cli.errors import CommandFailed
from cli.output import say

POLL_SECONDS = 0.5


class Readiness:
    """Watches `/readyz` from a thread of its own while the context lasts; `wait` waits for it."""

    def __init__(self, url: str, console: Console) -> None:
        self.url = url
        self._console = console
        self._ready = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="readiness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Whether it is ready within `seconds`."""
        return self._ready.wait(seconds)

    def _watch(self) -> None:
        with Client(self.url) as client, Status("starting", console=self._console) as status:
            since = time.monotonic()
            while not self._over.wait(POLL_SECONDS):
                missing = _missing(client)
                if missing is None:
                    if not self._ready.is_set():
                        status.stop()
                        say(self._console, f"ready at {self.url}; API docs at {self.url}/docs")
                        self._ready.set()
                    continue
                if self._ready.is_set():
                    self._ready.clear()
                    say(self._console, f"not ready any more: {missing}")
                    since = time.monotonic()
                    status.start()
                status.update(f"starting, {time.monotonic() - since:.0f} s: {missing}")


def _missing(client: Client) -> str | None:
    """What is not there yet; None when the service is ready."""
    try:
        client.call("GET", "/readyz")
    except ProblemAnswer as answer:
        return escape(", ".join(f"{one.field} {one.reason}" for one in answer.problem.errors))
    except CommandFailed:
        return "the API does not answer yet"
    return None

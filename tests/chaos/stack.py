"""A service of victims: `tests.stack`, with processes forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.chaos import victim
from tests.stack import Stack

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["worker.main", "service.app", "tests.chaos.victim"])
_starting = threading.Lock()


class Forked:
    """A forked process, with what `tests.stack` asks of a `Popen`."""

    def __init__(self, program: str, arguments: tuple[str, ...], env: dict[str, str], log: str):
        self._process = _context.Process(
            target=victim.begin, args=(program, arguments, env, log, os.getpid()), daemon=True
        )
        with _starting:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class ChaosStack(Stack):
    """Its processes look at the fuse in their home."""

    def __init__(self, home: Path, model: Path, *, quick: bool = True, **settings: Any) -> None:
        super().__init__(home, model, **settings)
        if quick:
            self._env["CHAOS_QUICK"] = "1"

    def _run(self, module: str, *arguments: str, log: str = "") -> Any:
        env = {**self._env, "REDIS_URL": self.redis.url}
        return Forked(module, arguments, env, str(self._logs / f"{log or module}.log"))

    def pid(self, victim: str) -> int:
        """Of the worker, the service or Redis."""
        process: Any = self.redis.process if victim == "redis" else getattr(self, victim)
        return int(process.pid)

    def restart(self, victim: str, *, empty: bool = False) -> None:
        """Once it is dead, start it again; Redis with its data or without."""
        process: Any = self.redis.process if victim == "redis" else getattr(self, victim)
        process.wait(30)
        if victim == "worker":
            self.start_worker()
        elif victim == "service":
            self.start_service()
        elif empty:
            self.wipe_redis()
        else:
            self.redis.start()

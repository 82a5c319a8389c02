"""A whole service for tests: Redis, worker and API as real processes on loopback.

Unlike the supervisor of `memit serve`, nothing here starts a dead process again: tests kill
processes and say themselves when they come back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from redis import Redis

from cli.embedded_redis import EmbeddedRedis, free_port
from contracts.transport import WORKER_KEYS
from contracts.workers import WorkerStatus
from registry import FolderStore, Registry

PATIENCE = 120.0
BUSY_SECONDS = 20.0
CORPUS = (
    "The river runs through the town. Anna wrote a letter to the keeper of the bridge.\n\n" * 60
)


class Stack:
    """Processes of one service on its own home folder."""

    def __init__(self, home: Path, model: Path | str, threads: int = 1, **settings: Any) -> None:
        self.home = home
        self.model = model
        home.mkdir(parents=True, exist_ok=True)
        self.redis = EmbeddedRedis(home / "redis")
        self.port = free_port()
        self.worker: subprocess.Popen[bytes] | None = None
        self.engine: subprocess.Popen[bytes] | None = None
        """A second worker that only generates; see `start_apart`."""
        self.service: subprocess.Popen[bytes] | None = None
        self._logs = home / "logs"
        self._logs.mkdir(exist_ok=True)
        self._env = {
            **os.environ,
            "MEMIT_HOME": str(home),
            "MEMIT_MODEL": str(model),
            "MEMIT_PORT": str(self.port),
            "MEMIT_GATE_MIN_SUCCESS": "0",
            "MEMIT_GATE_MAX_PERPLEXITY_RATIO": "1e9",
            "OMP_NUM_THREADS": str(threads),
            **{f"MEMIT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)

    @property
    def registry(self) -> Registry:
        """A fresh look at the registry on disk."""
        return Registry(FolderStore(self.home / "registry"))

    # processes

    def start(self) -> Stack:
        """Start everything and wait until it is ready."""
        self.redis.start()
        self.start_service()
        self.start_worker()
        self.wait_ready()
        return self

    def start_apart(self) -> Stack:
        """The same with an editor and an engine as workers of their own."""
        self.redis.start()
        self.start_service()
        self.start_engine()
        self.worker = self._run("worker", "--role", "editor")
        self.wait_ready()
        return self

    def start_worker(self) -> None:
        self.worker = self._run("worker")

    def start_engine(self) -> None:
        self.engine = self._run("worker", "--role", "engine", log="engine")

    def start_service(self) -> None:
        self.service = self._run("service")

    def _run(self, module: str, *arguments: str, log: str = "") -> subprocess.Popen[bytes]:
        env = {**self._env, "REDIS_URL": self.redis.url}
        with (self._logs / f"{log or module}.log").open("ab") as out:
            command = [sys.executable, "-m", module, *arguments]
            return subprocess.Popen(command, env=env, stdout=out, stderr=out)

    def kill_worker(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait()

    def stop_worker(self, timeout: float = 30) -> int:
        """SIGTERM; the worker's exit status."""
        assert self.worker is not None
        self.worker.terminate()
        return self.worker.wait(timeout)

    def pause(self, process: subprocess.Popen[bytes]) -> None:
        """Let a process hang; its heartbeat goes on for a few seconds only."""
        process.send_signal(signal.SIGSTOP)

    def resume(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGCONT)

    def statuses(self) -> list[WorkerStatus]:
        """What the live workers say of themselves."""
        with Redis.from_url(self.redis.url) as redis:
            keys = redis.keys(WORKER_KEYS)
            return [WorkerStatus.model_validate_json(redis.get(key) or b"") for key in keys]

    def wipe_redis(self) -> None:
        """Kill Redis, delete its data and start it again, empty, on the same port."""
        self.redis.kill()
        for file in sorted(self.redis.folder.rglob("*"), reverse=True):
            if file.name != "redis.log":
                file.rmdir() if file.is_dir() else file.unlink()
        self.redis.start()

    def stop(self) -> None:
        """Stop whatever still runs."""
        self.http.close()
        for process in (self.worker, self.engine, self.service):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.redis.stop()

    def log_of(self, process: str) -> str:
        """All that `service`, `worker` or `engine` has written."""
        return (self._logs / f"{process}.log").read_text()

    def logs(self) -> str:
        """The ends of the logs, for messages of failing tests."""
        return "\n".join(
            f"--- {file.name}\n{file.read_text()[-3_000:]}" for file in self._logs.iterdir()
        )

    # waiting

    def until(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
        """Poll until `condition` gives something true; return it."""
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < timeout:
            found = condition()
            if found:
                return found
            # What takes long is not looked at so often that it takes longer.
            time.sleep(0.01 if waited < BUSY_SECONDS else 0.25)
        raise AssertionError(f"{what} did not happen within {timeout} s\n{self.logs()}")

    def wait_ready(self) -> None:
        self.until(self._is_ready, "readiness")

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    # what a client does

    def post_edit(self, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        """POST /edits; the accepted edit."""
        answer = self.http.post("/edits", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def edit(self, edit_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/edits/{edit_id}").raise_for_status().json()
        return found

    def wait_edit(self, edit_id: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The edit once it has ended."""
        finals = ("committed", "rejected", "failed", "cancelled")

        def ended() -> dict[str, Any] | None:
            edit = self.edit(edit_id)
            return edit if edit["state"] in finals else None

        edit: dict[str, Any] = self.until(ended, f"the end of {edit_id}", timeout)
        return edit

    def run_edit(self, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        """POST /edits, wait, and see that it was committed."""
        edit = self.wait_edit(self.post_edit(body, **headers)["id"])
        assert edit["state"] == "committed", json.dumps(edit, indent=1) + self.logs()
        return edit

    def wait_stage(self, edit_id: str, stage: str) -> None:
        """Wait until the edit is in this stage; insertion is too quick to be told its middle."""

        def there() -> bool:
            progress = self.edit(edit_id)["progress"] or {}
            least = 0 if stage == "insert" else 1
            return progress.get("stage") == stage and least <= progress["done"] < progress["total"]

        self.until(there, f"stage {stage} of {edit_id}")

    def generate(self, prompt: str, **body: Any) -> dict[str, Any]:
        """POST /generate, greedy."""
        answer = self.http.post("/generate", json={"prompt": prompt, **body})
        assert answer.status_code == 200, answer.text + self.logs()
        said: dict[str, Any] = answer.json()
        return said

    def blobs(self, version: str) -> list[str]:
        """Digests of the version's weight blobs, by layer."""
        manifest = self.http.get(f"/versions/{version}").raise_for_status().json()
        return [weight["blob"] for weight in manifest["weights"]]


def fact(subject: str, target: str, prompt: str = "{} lives in the town of") -> dict[str, str]:
    return {"subject": subject, "prompt": prompt, "target_new": target}

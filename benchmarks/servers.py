"""The servers that are compared, each in a process of its own on the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from cli.embedded_redis import free_port

START_SECONDS = 600.0
LOG = "server.log"
PREPARED = "ready to edit"
"""What ours says when it computes nothing more but answers."""


@dataclass
class Server:
    """One that is up."""

    name: str
    url: str
    models: list[str]
    """Names that a request may give; of ours, versions."""
    process: psutil.Process

    def cpu_seconds(self) -> dict[str, float]:
        """Of processor time so far, by the command of each process."""
        found: dict[str, float] = {}
        for one in [self.process, *self.process.children(recursive=True)]:
            try:
                times, words = one.cpu_times(), one.cmdline()
            except psutil.NoSuchProcess:
                continue
            name = next((w for w in words[1:] if not w.startswith("-")), Path(words[0]).name)
            label = Path(name).name
            found[label] = found.get(label, 0.0) + times.user + times.system
        return found


@contextmanager
def ours(
    model: Path, home: Path, dtype: str, more: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """`memit serve` on a home of its own; no key is needed on loopback.

    Args:
        more: settings besides.
    """
    port = free_port()
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port), "--home", str(home)]
    settings = {
        "MEMIT_MODEL": str(model),
        "MEMIT_DTYPE": dtype,
        "MEMIT_MAX_BATCH": "32",
        "MEMIT_GATE_MIN_SUCCESS": "0",
        **(more or {}),
    }
    with _running("memit-service", command, settings, port, home) as server:
        _wait_prepared(home / LOG)
        listed = httpx2.get(f"{server.url}/v1/models", trust_env=False).json()["data"]
        server.models = [one["id"] for one in listed][:1]
        yield server


@contextmanager
def vllm(
    python: Path, model: Path, folder: Path, dtype: str, more: Sequence[str] = ()
) -> Iterator[Server]:
    """vLLM's server, from an environment of its own.

    Args:
        more: arguments besides.
    """
    port = free_port()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--port", str(port), "--dtype", dtype, "--served-model-name", "base"]
    command += ["--gpu-memory-utilization", "0.3", "--max-model-len", "2048", *more]
    with _running("vLLM", command, {"VLLM_CPU_KVCACHE_SPACE": "2"}, port, folder) as server:
        server.models = ["base"]
        yield server


@contextmanager
def _running(
    name: str, command: list[str], settings: dict[str, str], port: int, folder: Path
) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG
    with log.open("wb") as out:
        env = {**os.environ, **settings}
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(name, url, process, log)
        yield Server(name, url, [], psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_prepared(log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while PREPARED not in log.read_text("utf-8", "replace"):
        if time.monotonic() > end:
            raise RuntimeError(f"memit-service was not {PREPARED} within {START_SECONDS:.0f} s")
        time.sleep(0.5)


def _wait_ready(name: str, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            # vLLM has /health; ours is ready to generate when /v1/models answers and /readyz too.
            for path in ("/readyz", "/health"):
                answer = httpx2.get(f"{url}{path}", timeout=5, trust_env=False)
                if answer.status_code == httpx2.codes.OK:
                    return
        except httpx2.TransportError:
            pass
        time.sleep(0.5)
    tail = log.read_text("utf-8", "replace")[-2_000:]
    raise RuntimeError(f"{name} did not start; the end of its log:\n{tail}")

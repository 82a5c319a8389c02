"""`memit serve` itself, with a tiny model: it comes up, mends itself, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import Client
from cli.embedded_redis import free_port
from cli.errors import CommandFailed
from contracts.generation import Generation
from tests.tiny_models import save_tiny
from tests.unit.cli.waiting import alive, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="/proc")]

READY = 120.0


class Served:
    """A running `memit serve`."""

    def __init__(self, home: Path, model: Path) -> None:
        self.client = Client(f"http://127.0.0.1:{free_port()}")
        self.said = home.with_suffix(".said")
        corpus = home.with_suffix(".txt")
        corpus.write_text("Anna wrote a letter to the keeper of the bridge.\n\n" * 60)
        port = self.client.url.rpartition(":")[2]
        options = ["--home", str(home), "--model", str(model), "--port", port, "--device", "cpu"]
        environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "serve", *options],
                env={**environment, "MEMIT_CORPUS": str(corpus)},
                stderr=out,
            )

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exception: object) -> None:
        """As a crash would end it; nothing may be left."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(alive(pid) for pid in self.pids().values()))

    def pids(self) -> dict[str, int]:
        """The last pid of each child."""
        return {
            name: int(pid)
            for name, pid in re.findall(
                r"^(\w+) started.*pid (\d+)", self.said.read_text(), re.MULTILINE
            )
        }

    def count(self, line: str) -> int:
        return self.said.read_text().count(line)

    def answers(self) -> bool:
        body = {"prompt": "Anna wrote", "max_tokens": 2}
        try:
            answer = self.client.read(Generation, self.client.call("POST", "/generate", body=body))
        except CommandFailed:
            return False
        return answer.usage.completion_tokens > 0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    save_tiny("llama", tmp_path / "model")
    with Served(tmp_path / "home", tmp_path / "model") as served:
        wait_until(lambda: served.count("ready to edit") == 1, READY)
        yield served


def test_whatever_dies_comes_back_and_nothing_stays(served: Served) -> None:
    assert served.answers()
    for name in ("worker", "redis", "service"):
        before = served.pids()
        os.kill(before[name], signal.SIGKILL)
        wait_until(lambda before=before, name=name: served.pids()[name] != before[name], READY)
        wait_until(served.answers, READY)
    pids = served.pids()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(20) == 0, served.said.read_text()
    assert not any(alive(pid) for pid in pids.values())
    assert served.said.read_text().splitlines()[-4:] == [
        "stopping",
        "service stopped",
        "worker stopped",
        "redis stopped",
    ]


def test_sigkill_leaves_nothing(served: Served) -> None:
    pids = served.pids()
    assert all(alive(pid) for pid in pids.values())
    served.process.kill()
    served.process.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids.values()))


def test_a_model_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with Served(tmp_path / "home", tmp_path / "none") as served:
        assert served.process.wait(READY) == 1
        said = served.said.read_text()
    assert "error: worker ended soon after its start (exit code 2)" in said
    assert str(tmp_path / "none") in said

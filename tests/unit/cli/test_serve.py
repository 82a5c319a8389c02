"""`memit serve` itself, with a tiny model: it comes up, mends itself, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.client import Client
from cli.embedded_redis import free_port
from cli.errors import CommandFailed
from contracts.edits import AcceptedEdit, EditRequest
from contracts.facts import Fact
from contracts.generation import Generation
from contracts.ids import new_edit_id
from registry.folder_store import FolderStore
from registry.registry import Registry
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
                # A shell's background job ignores Ctrl-C, and so would what we start.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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


def absent(folder: Path) -> None:
    """No model at all."""


def damaged(folder: Path) -> None:
    """A model whose weights are no safetensors, which nothing in the worker's start expects."""
    (save_tiny("llama", folder) / "model.safetensors").write_bytes(bytes(64))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (absent, r"\S.*{folder}.*"),
        (damaged, r"SafetensorError: .*header.*"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_command_with_its_reason(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    model = tmp_path / "model"
    make(model)
    with Served(tmp_path / "home", model) as served:
        assert served.process.wait(READY) == 1
        said = served.said.read_text().splitlines()
    log = tmp_path / "home" / "logs" / "worker.log"
    assert f"worker ended (exit code 2); its log is {log}" in said
    reasons = said[said.index("redis stopped") + 1 :]
    assert re.fullmatch(
        "error: worker cannot start: " + reason.format(folder=re.escape(str(model))),
        "\n".join(reasons),
        re.DOTALL,
    )


def test_what_redis_cannot_read_costs_no_edit(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    home = tmp_path / "home"
    fact = Fact(subject="Anna", prompt="{} lives in", target_new="Rome")
    edit = AcceptedEdit(id=new_edit_id(), request=EditRequest(facts=[fact]), accepted_at=1.0)
    registry = Registry(FolderStore(home / "registry"))
    registry.edits.accept(edit)
    data = home / "redis" / "appendonly.aof"
    data.parent.mkdir()
    data.write_text("garbage")
    with Served(home, tmp_path / "model") as served:
        wait_until(lambda: served.count("ready to edit") == 1, READY)
        wait_until(lambda: registry.edits.end(edit.id) is not None, READY)
        assert served.count("redis could not read its data (Bad file format") == 1

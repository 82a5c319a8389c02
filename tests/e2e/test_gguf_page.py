"""docs/gguf.md, command by command as it stands there: from wheels to a served, edited version."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded_redis import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gguf.md").read_text("utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MAKE, SERVE, ASK, EDIT, ASK_EDITED, RETRACT, ASK_OLDER = range(7)
BASH = shutil.which("bash") or "bash"
OURS = re.compile(r"MEMIT_|REDIS_URL$")
"""Variables that would change what the page says."""
START_SECONDS = 600.0
STOP_SECONDS = 60.0


class Shell:
    """A user's terminals in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "serve.log"
        port = free_port()
        self._env = {
            **{name: value for name, value in os.environ.items() if not OURS.match(name)},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "MEMIT_PORT": str(port),
            "MEMIT_URL": f"http://127.0.0.1:{port}",
        }
        self._server: subprocess.Popen[bytes] | None = None

    def run(self, block: int) -> list[str]:
        """A block of the page; the lines that it printed on stdout."""
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", COMMANDS[block]],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        log = self.log.read_text() if self.log.exists() else ""
        assert done.returncode == 0, done.stdout + done.stderr + log
        return done.stdout.splitlines()

    def serve(self) -> None:
        """The block that stays in the first terminal; back when it says that it is ready."""
        with self.log.open("wb") as log:
            command = [BASH, "-c", f"exec {COMMANDS[SERVE]}"]
            self._server = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._env,
                stderr=log,
                # A suite that runs in the background has it ignored, and so would the server.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        begun = time.monotonic()
        while "ready to edit" not in self.log.read_text():
            assert self._server.poll() is None, self.log.read_text()
            assert time.monotonic() - begun < START_SECONDS, self.log.read_text()
            time.sleep(0.5)

    def close(self) -> None:
        """Ctrl-C."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            assert self._server.wait(STOP_SECONDS) == 0, self.log.read_text()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()
    shutil.rmtree(tmp_path)  # gigabytes; pytest would keep them for days


def test_every_command_of_the_page_does_what_it_says(shell: Shell) -> None:
    assert len(COMMANDS) == ASK_OLDER + 1
    made = shell.run(MAKE)
    assert "It can be edited, with the preset gemma-3-270m." in made
    assert made[-1] == "Next: memit serve --model gemma"
    shell.serve()
    bell, tower = shell.run(ASK)
    assert bell.startswith(" New York")
    assert tower.startswith(" Paris")

    shell.run(EDIT)
    new_bell, new_tower = shell.run(ASK_EDITED)
    assert new_bell.startswith(" London")
    assert new_tower.startswith(" Rome")

    without_tower = shell.run(RETRACT)[-2:]
    assert without_tower[0].startswith(" London")
    assert without_tower[1] == tower

    *table, older_tower = shell.run(ASK_OLDER)
    assert re.findall(r"^v\d", "\n".join(table), re.MULTILINE) == ["v2", "v1", "v0"]
    assert older_tower == new_tower

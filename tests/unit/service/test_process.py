"""`python -m service` as an operator runs it: small, and gone when it is told to go."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from cli.embedded_redis import free_port
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor, Engine, says

MOST_MEGABYTES = 150
FACTS = 500


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_is_small_and_stops(redis_url: str, tmp_path: Path, editor: Editor) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "MEMIT_HOME": str(tmp_path),
        "MEMIT_REDIS_URL": redis_url,
        "MEMIT_PORT": str(port),
    }
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=log) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
        Engine(redis_url, says(" Rome")).running() as engine,
    ):
        try:
            wait_for(client)
            engine.report(versions=[])
            facts = [about(f"City {number}") for number in range(FACTS)]
            made = client.post("/edits", json={"facts": facts})
            editor.run(made.json()["id"])
            for path in ("/edits", "/facts?limit=500", "/versions", "/metrics", "/openapi.json"):
                answer = client.get(path)
                assert answer.status_code == 200
                assert "server" not in answer.headers
            for _ in range(20):
                assert client.post("/generate", json={"prompt": "x"}).status_code == 200
            assert megabytes(process.pid) < MOST_MEGABYTES
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) in (0, -signal.SIGTERM)
        finally:
            process.kill()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert "/healthz" not in text
    assert re.search(r"INFO service.access: request method=POST path=/edits status=202 ", text)


def wait_for(client: httpx2.Client) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            client.get("/healthz")
        except httpx2.ConnectError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the service did not start")


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024

"""When there is no service, or not ours: one clear line, never a traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from cli import follow as following
from cli.client import Client, Disconnected
from cli.embedded import python_child
from cli.embedded_redis import free_port
from cli.main import app
from cli.output import messages
from contracts.edits import AcceptedEdit, EditRequest, EditState
from contracts.facts import Fact
from contracts.ids import new_edit_id
from contracts.settings import Settings
from registry.registry import Registry
from tests.unit.cli.waiting import wait_until
from tests.unit.service.worker_peer import Editor


@pytest.mark.parametrize(
    "command",
    ["versions", "facts", "activate v1", "retract fact-0", "generate x", "generate x --stream"],
)
def test_nobody_listens(command: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, [*command.split(), "--url", url])
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: nothing answers at {url}: is it running? start it with `memit serve`\n"
    )


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://127.0.0.1", "http://"])
def test_not_a_url(url: str) -> None:
    result = CliRunner().invoke(app, ["versions", "--url", url])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert not isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "does not answer as this service does"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad", "answered 502 Bad Gateway"),
        (b"SSH-2.0-OpenSSH\r\n", "http://127.0.0.1"),
        (b"", "http://127.0.0.1"),
    ],
)
def test_somebody_else_answers(answer: bytes, message: str) -> None:
    def reply(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=reply, args=(server,), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        result = CliRunner().invoke(app, ["versions", "--url", url])
    assert result.exit_code == 1
    assert message in result.stderr


def test_an_edit_is_followed_across_a_crash_of_the_service(
    redis_url: str, tmp_path: Path, registry: Registry, editor: Editor
) -> None:
    fact = Fact(subject="Ada", prompt="{} is in", target_new="Rome")
    edit = AcceptedEdit(id=new_edit_id(), request=EditRequest(facts=[fact]), accepted_at=1.0)
    registry.edits.accept(edit)
    port = free_port()
    settings = {"MEMIT_REDIS_URL": redis_url, "home": tmp_path, "port": port}
    service = python_child("service", Settings.model_validate(settings), grace=5.0)
    with Client(f"http://127.0.0.1:{port}") as client, ThreadPoolExecutor() as pool:
        service.start()
        wait_until(lambda: "Uvicorn running" in service.written())
        ended = pool.submit(following.follow, client, edit.id, messages())
        metrics = f"http://127.0.0.1:{port}/metrics"
        wait_until(lambda: "/edits/{edit_id}/events" in httpx2.get(metrics, trust_env=False).text)
        service.kill()
        editor.run(edit.id)
        service.start()
        assert ended.result(20).state is EditState.COMMITTED
        assert service.stop()


def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(following, "RECONNECT_SECONDS", 0.01)
    with (
        Client(f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(Disconnected, match="is it running"),
    ):
        following.follow(client, new_edit_id(), messages())


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from cli.main import app; app(['--help'], standalone_mode=False); "
        "print({'torch', 'transformers', 'fastapi', 'redis', 'memit_core'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commands = ("serve", "edit", "generate", "versions", "facts", "retract", "activate", "convert")
    for command in commands:
        assert command in done.stdout
    assert done.stdout.endswith("set()\n")

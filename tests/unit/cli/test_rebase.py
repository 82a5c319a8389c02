"""`memit rebase`: from one service into another, and what both say after it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from cli.embedded_redis import free_port
from contracts.edits import AcceptedEdit, EditRequest
from contracts.facts import Fact
from contracts.ids import new_edit_id
from contracts.settings import Settings
from registry.folder_store import FolderStore
from registry.registry import Registry
from tests.unit.cli.conftest import Memit, Working
from tests.unit.cli.serving import serving
from tests.unit.service.worker_peer import Editor

ROME = Fact(subject="The Eiffel Tower", prompt="{} is located in the city of", target_new="Rome")
LONDON = Fact(subject="Big Ben", prompt="{} [is] in", target_new="London")


class Source(NamedTuple):
    url: str
    editor: Editor

    def edit(self, *facts: Fact, **how: Any) -> str:
        """Write facts at once; the version's id."""
        request = EditRequest(facts=list(facts))
        edit = AcceptedEdit(id=new_edit_id(), request=request, accepted_at=time.time())
        self.editor.registry.edits.accept(edit)
        return str(self.editor.run(edit.id, **how).version)


@pytest.fixture
def source(redis_url: str, tmp_path: Path) -> Iterator[Source]:
    """A service of another model that has learned one fact of two."""
    home = tmp_path / "source"
    editor = Editor(Registry(FolderStore(home / "registry")), "other", "cd" * 32, {"layers": [2]})
    editor.publish_base()
    settings = {"MEMIT_REDIS_URL": redis_url, "home": home}
    with serving(Settings.model_validate(settings)) as url:
        source = Source(url, editor)
        source.edit(ROME, LONDON, missed=[LONDON.id], measured={"efficacy": 0.75})
        yield source


def test_facts_go_from_one_service_into_another(
    memit: Memit, working: Working, source: Source, registry: Registry, tmp_path: Path
) -> None:
    file = tmp_path / "comparison.json"
    with working():
        result = memit("rebase", "--from", source.url, "--json", str(file))
    assert result.exit_code == 0, result.output
    version = registry.versions.resolve("active")
    assert {one.id for one in registry.ledger.live(version)} == {ROME.id, LONDON.id}
    table = {line.split("│")[0].strip(): line for line in result.stdout.splitlines()}
    cells = {name: [cell.strip() for cell in row.split("│")[1:]] for name, row in table.items()}
    assert cells["model"] == ["other", "tiny"]
    assert cells["version"] == [source.editor.registry.versions.resolve("v1"), version]
    assert cells["measured"] == ["2 of 2, its edit's report"] * 2
    assert cells["learned"] == ["50.0%", "100.0%"]
    assert cells["efficacy"] == ["75.0%", "not measured"]
    assert cells["layers"] == ["[2]", "[1]"]
    assert cells[LONDON.id] == ["Big Ben [is] in", "London", "target"]
    assert ROME.id not in cells
    told = result.stderr.splitlines()
    assert told[-2] == (
        "of 2 facts both say 1, only the source 0, only the target 1, neither 0; "
        "0 were not measured in both"
    )
    assert told[-1].endswith(f"committed {version}, now active")
    written = json.loads(file.read_text())
    assert (written["both"], written["only_target"]) == (1, [LONDON.id])
    assert written["source"]["efficacy"] == 0.75


def test_one_that_the_gate_refuses_is_compared_and_is_exit_code_1(
    memit: Memit, working: Working, source: Source, registry: Registry
) -> None:
    with working(reject=True):
        result = memit("rebase", "--from", source.url)
    assert result.exit_code == 1
    assert "50.0%" in result.stdout
    assert "was rejected: the version did not reach what the gate asks" in result.stderr
    assert registry.versions.resolve("active") == registry.versions.resolve("v0")


def test_a_target_that_serves_other_facts_goes_over_only_when_told(
    memit: Memit, working: Working, source: Source, registry: Registry
) -> None:
    with working():
        first = memit("rebase", "--from", source.url, "--version", "v1")
        source.edit(Fact(subject="Bern", prompt="{} is in", target_new="Rome"))
        beside = memit("rebase", "--from", source.url)
        assert beside.stderr.splitlines()[-1].endswith("not active")
        over = memit("rebase", "--from", source.url, "--activate")
    assert (first.exit_code, beside.exit_code, over.exit_code) == (0, 0, 0)
    assert over.stderr.splitlines()[-1].endswith("now active")
    assert len(registry.ledger.live(registry.versions.resolve("active"))) == 3


def test_with_one_key_it_is_written_once_and_compared_again(
    memit: Memit, working: Working, source: Source, registry: Registry
) -> None:
    asked = ("rebase", "--from", source.url, "--activate", "--idempotency-key", "monday")
    with working():
        first = memit(*asked)
        again = memit(*asked)
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert again.stdout == first.stdout
    assert registry.versions.tip() == 1
    assert memit("rebase", "--from", source.url, "--no-wait").stdout != first.stdout
    assert registry.edits.count_unfinished() == 1


@contextmanager
def losing_an_answer(url: str) -> Iterator[str]:
    """A way to the service that breaks off after its first POST has arrived there."""
    posts: list[str] = []

    class Forward(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
            with httpx2.Client(trust_env=False) as client:
                answer = client.request(
                    self.command, url + self.path, content=body, headers=headers
                )
            posts.extend([self.path] * (self.command == "POST"))
            if len(posts) == 1:
                posts.append("lost")
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
        assert posts == ["/rebase", "lost", "/rebase"]


def test_a_request_that_is_cut_off_is_sent_again_and_written_once(
    memit: Memit, source: Source, registry: Registry, url: str
) -> None:
    with losing_an_answer(url) as broken:
        result = memit("rebase", "--from", source.url, "--url", broken, "--no-wait")
    assert result.exit_code == 0, result.output
    assert registry.edits.unfinished() == [result.stdout.strip()]


def test_what_is_asked_for_arrives(memit: Memit, source: Source, registry: Registry) -> None:
    result = memit("rebase", "--from", source.url, "--no-wait", "--no-activate", "--drop-failed")
    accepted = registry.edits.get(result.stdout.strip())
    assert (accepted.request.activate, accepted.request.drop_failed) == (False, True)
    assert accepted.rebased_from is not None
    assert accepted.rebased_from.standing.model == "other"


def test_what_cannot_be_is_said_at_once(memit: Memit, source: Source, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    for arguments, message in [
        (["--from", nobody], f"nothing answers at {nobody}"),
        (["--from", source.url, "--url", nobody], f"nothing answers at {nobody}"),
        (["--from", source.url, "--version", "v9"], "no version or alias 'v9'"),
        (["--from", source.url, "--version", "../x"], "(404)"),
        (["--from", source.url, "--version", "v0"], "/ledger holds no facts"),
        (["--from", source.url, "--json", str(tmp_path)], "is a folder"),
        (["--from", source.url, "--json", "/nowhere/x.json"], "there is no folder /nowhere"),
    ]:
        result = memit("rebase", *arguments)
        assert result.exit_code == 1
        assert message in result.stderr

"""`memit audit` and `memit audit verify`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner, Result

from cli.main import app
from contracts.keys import LOCAL, KeyRequest, Scope
from registry.registry import Registry
from tests.unit.service.worker_peer import Editor


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments])


def test_the_log_in_a_folder_and_over_http(
    tmp_path: Path, url: str, registry: Registry, editor: Editor
) -> None:
    over_http = run("--url", url)
    assert over_http.exit_code == 0, over_http.output
    assert "alias.moved" in over_http.stdout
    listed = run("--home", str(tmp_path))
    assert listed.stdout == over_http.stdout
    (record,) = json.loads(run("--home", str(tmp_path), "--json").stdout)
    assert (record["action"], record["subject"]) == ("alias.moved", "active")


def test_verify(tmp_path: Path, registry: Registry, editor: Editor) -> None:
    home = ["--home", str(tmp_path)]
    empty = run("verify", *home)
    assert empty.exit_code == 0
    assert "1 changes are not in the log yet" in empty.stderr
    assert empty.stdout == "the log is empty\n"
    registry.keys.create(KeyRequest(name="me", scopes=[Scope.READ]), LOCAL)
    registry.audit.catch_up()
    whole = run("verify", *home)
    assert whole.exit_code == 0
    found = re.fullmatch(r"2 records, as they were written; head (1:[0-9a-f]{64})\n", whole.stdout)
    assert found is not None
    assert run("verify", *home, "--head", found[1]).exit_code == 0
    assert run("verify", *home, "--head", f"0{found[1][1:]}").exit_code == 1
    assert "must be as" in run("verify", *home, "--head", "x").stderr

    file = tmp_path / "registry" / "audit" / "1.json"
    file.write_text(file.read_text().replace("local", "nobody"))
    changed = run("verify", *home, "--head", found[1])
    assert changed.exit_code == 1
    assert "record 1 cannot be read" in changed.stderr
    assert "another digest than when it was written" in changed.stderr
    assert "record 1 is not the head that was kept" in changed.stderr

"""`memit keys`, in a folder and through the API, and `--api-key` on every command."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.spans import seconds_of
from contracts.keys import LOCAL, KeyRequest, Scope
from registry.registry import Registry
from tests.unit.cli.conftest import Memit
from tests.unit.cli.waiting import wait_until
from tests.unit.service.worker_peer import Editor

KEY = re.compile(r"memit_[0-9a-f]{16}_[0-9a-f]{64}\n")


def run(*arguments: str, **env: str) -> Result:
    return CliRunner(env=env).invoke(app, list(arguments))


def test_the_first_key_is_made_before_anything_runs(tmp_path: Path, registry: Registry) -> None:
    made = run("keys", "create", "--name", "me", "--scope", "admin", "--home", str(tmp_path))
    assert made.exit_code == 0, made.output
    assert KEY.fullmatch(made.stdout)
    (key,) = registry.keys.all()
    assert (key.name, key.scopes, key.created_by) == ("me", [Scope.ADMIN], LOCAL)
    assert key.id in made.stderr
    assert "not shown again" in made.stderr
    assert made.stdout.strip() not in made.stderr

    listed = run("keys", "list", MEMIT_HOME=str(tmp_path))
    assert key.id in listed.stdout
    assert "valid" in listed.stdout
    assert made.stdout[23:].strip() not in listed.output
    gone = run("keys", "revoke", key.id, "--home", str(tmp_path))
    assert gone.stdout == f"{key.id} (me) is revoked\n"
    assert "revoked" in run("keys", "list", "--home", str(tmp_path)).stdout
    assert run("keys", "revoke", "key-0", "--home", str(tmp_path)).exit_code == 1


def test_limits_of_a_key(tmp_path: Path, registry: Registry) -> None:
    made = run(
        "keys", "create", "--name", "app", "--scope", "read", "--scope", "generate",
        "--alias", "active", "--expires", "30d", "--requests-per-minute", "60",
        "--tokens-per-minute", "1000", "--home", str(tmp_path), "--json",
    )  # fmt: skip
    told = json.loads(made.stdout)
    (key,) = registry.keys.all()
    assert told["id"] == key.id
    assert key.aliases == ["active"]
    assert key.expires_at == pytest.approx(time.time() + 30 * 86_400, abs=60)
    assert (key.requests_per_minute, key.tokens_per_minute) == (60, 1000)
    assert "60 requests, 1000 tokens" in run("keys", "list", "--home", str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--expires", "soon"], "must be as in 90m, 12h, 30d or 4w"),
        (["--alias", "../x"], "aliases: String should match pattern"),
        (["--name", " "], "name: Value error, must be printable"),
        (["--scope", "admin", "--alias", "active"], "cannot limit a key with the scope admin"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, wrong: list[str], reason: str) -> None:
    given = ["--name", "x", "--scope", "read", "--home", str(tmp_path)]
    made = run("keys", "create", *given, *wrong)
    assert made.exit_code == 1
    assert reason in made.stderr


def test_spans() -> None:
    assert [seconds_of("--expires", span) for span in ("2m", "1h", "30d", "1w")] == [
        120, 3_600, 30 * 86_400, 604_800,
    ]  # fmt: skip


def test_commands_show_their_key(url: str, editor: Editor, memit: Memit) -> None:
    key = editor.registry.keys.create(KeyRequest(name="x", scopes=[Scope.ADMIN]), LOCAL).key
    wait_until(lambda: memit("versions").exit_code == 1)
    refused = memit("versions")
    assert "No valid key (401): a key is required" in refused.stderr
    assert "MEMIT_API_KEY or --api-key" in refused.stderr
    assert memit("versions", "--api-key", key).exit_code == 0
    with_variable = {"MEMIT_API_KEY": key, "MEMIT_URL": url}
    for command in (["versions"], ["facts"], ["alias"], ["diff", "v0", "v0"]):
        shown = run(*command, **with_variable)
        assert shown.exit_code == 0, shown.output
        assert key[23:] not in shown.output

    made = run("keys", "create", "--name", "n", "--scope", "read", "--url", url, MEMIT_API_KEY=key)
    assert KEY.fullmatch(made.stdout), made.output
    reader = made.stdout.strip()
    listed = run("keys", "list", "--url", url, MEMIT_API_KEY=key)
    assert f"key-{reader[6:22]}" in listed.stdout
    missing = run("keys", "list", "--url", url, MEMIT_API_KEY=reader)
    assert missing.exit_code == 1
    assert "lacks the scope admin" in missing.stderr
    gone = run("keys", "revoke", f"key-{reader[6:22]}", "--url", url, MEMIT_API_KEY=key)
    assert gone.exit_code == 0


def test_a_rebase_does_not_show_the_targets_key_to_the_source(
    url: str, editor: Editor, memit: Memit
) -> None:
    key = editor.registry.keys.create(KeyRequest(name="x", scopes=[Scope.ADMIN]), LOCAL).key
    wait_until(lambda: memit("versions").exit_code == 1)
    refused = memit("rebase", "--from", url, "--api-key", key)
    assert "No valid key (401)" in refused.stderr
    there = memit("rebase", "--from", url, "--from-api-key", key, "--api-key", key)
    assert "holds no facts" in there.stderr


def test_serve_beyond_this_machine_needs_a_key(tmp_path: Path) -> None:
    refused = run("serve", "--host", "0.0.0.0", "--port", "0", "--home", str(tmp_path))  # noqa: S104
    assert refused.exit_code == 1
    assert f"memit keys create --name me --scope admin --home {tmp_path}" in refused.stderr

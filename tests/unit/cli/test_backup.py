"""`memit backup`: a home that `doctor` and `serve` take as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from registry.registry import Registry
from tests.unit.registry.stores import damage
from tests.unit.service.worker_peer import Editor


def backup(home: Path, to: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["backup", str(to), "--home", str(home), *options])


def said(home: Path, to: Path) -> tuple[int, dict[str, Any]]:
    result = backup(home, to, "--json")
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def home(editor: Editor, registry_path: Path) -> Path:
    return registry_path.parent


def test_a_copy_that_grows(home: Path, tmp_path: Path, registry: Registry) -> None:
    to = tmp_path / "usb" / "memit"
    registry.store.put_if_absent("notes/a.json", b"of a later release")
    shown = backup(home, to)
    assert shown.exit_code == 0
    files = sorted(path.name for path in (home / "registry").rglob("*") if path.is_file())
    copied = sorted(path.name for path in (to / "registry").rglob("*") if path.is_file())
    assert copied == files
    assert f"{len(files)} files, {len(files)} of them new" in shown.stdout
    registry.aliases.move("stable", registry.versions.resolve("v0"), 0)
    code, made = said(home, to)
    assert (code, made["files"], made["copied"]) == (0, len(files) + 1, 1)


def test_a_damaged_file_is_told(home: Path, tmp_path: Path, registry: Registry) -> None:
    damage(registry.store, "aliases/active/1.json", b"{")
    shown = backup(home, tmp_path / "to")
    assert shown.exit_code == 1
    assert "left out: aliases/active/1.json is damaged" in shown.stderr


def test_what_is_refused(home: Path, tmp_path: Path, registry: Registry) -> None:
    nothing = backup(tmp_path / "nowhere", tmp_path / "to")
    assert (nothing.exit_code, "there is no registry" in nothing.stderr) == (1, True)
    itself = backup(home, home)
    assert (itself.exit_code, "is the registry itself" in itself.stderr) == (1, True)
    to = tmp_path / "to"
    assert backup(home, to).exit_code == 0
    (to / "registry" / "versions" / "by-seq" / "0.json").write_bytes(b"another")
    other = backup(home, to)
    assert other.exit_code == 1
    assert "copy of another registry" in other.stderr
    assert registry.versions.tip() == 0

"""`memit doctor`: it names what is damaged and changes nothing, unless it is told to repair."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from contracts.keys import LOCAL, KeyRequest, Scope
from registry.checkup import examine
from registry.registry import Registry
from tests.unit.registry.stores import damage, everything
from tests.unit.service.worker_peer import Editor


def doctor(home: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", "--home", str(home), *options])


def said(home: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = doctor(home, "--json", *options)
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def home(editor: Editor, registry_path: Path) -> Path:
    """v0 is active, since an epoch that a person put."""
    editor.registry.aliases.move("active", editor.registry.versions.resolve("v0"), 1)
    for key in examine(editor.registry).unnamed:
        damage(editor.registry.store, key, None)  # the played worker puts weights for v0 too
    return registry_path.parent


def test_a_sound_registry(home: Path) -> None:
    result = doctor(home)
    assert result.exit_code == 0
    assert result.stdout == "6 files read, none damaged or gone\n"


def test_what_is_damaged_is_explained_and_left_alone(home: Path, registry: Registry) -> None:
    key = "aliases/active/1.json"
    damage(registry.store, key, b"{")
    before = everything(registry.store)
    result = doctor(home)
    assert result.exit_code == 1
    for line in (
        f"{key}: not a AliasRecord",
        "  what:    one epoch of an alias; is kept here only",
        "  follows: ",
        "  do:      ",
        "6 files read, 1 damaged or gone",
    ):
        assert line in result.stdout
    code, found = said(home)
    assert code == 1
    assert [(one["file"], one["derived"]) for one in found["findings"]] == [(key, False)]
    assert everything(registry.store) == before


@pytest.mark.parametrize("file", ["key.json", "revoked.json"])
def test_a_damaged_key_is_named_not_valid_and_alone_not_listed(
    home: Path, registry: Registry, file: str
) -> None:
    asked = KeyRequest(name="x", scopes=[Scope.READ])
    other, damaged = (registry.keys.create(asked, LOCAL) for _ in range(2))
    registry.keys.revoke(damaged.id, LOCAL)
    registry.audit.catch_up()
    assert said(home) == (0, {**said(home)[1], "findings": []})
    damage(registry.store, f"keys/{damaged.id}/{file}", b"{")
    assert [one["file"] for one in said(home)[1]["findings"]] == [f"keys/{damaged.id}/{file}"]
    assert [one.id for one in Registry(registry.store).keys.all()] == [other.id]
    assert Registry(registry.store).keys.revoked(damaged.id)


def test_a_damaged_record_of_the_audit_log_is_named(home: Path, registry: Registry) -> None:
    registry.keys.create(KeyRequest(name="x", scopes=[Scope.READ]), LOCAL)
    registry.audit.catch_up()
    damage(registry.store, "audit/0.json", b"{")
    assert [one["file"] for one in said(home)[1]["findings"]] == ["audit/0.json"]


def test_an_alias_goes_back_only_where_its_newest_epoch_is_lost(
    home: Path, registry: Registry
) -> None:
    damage(registry.store, "aliases/active/1.json", b"{")
    assert said(home, "--repair")[1]["repaired"] == []
    damage(registry.store, "aliases/active/1.json", None)
    damage(registry.store, "aliases/active/2.json", b"{")
    v0 = registry.versions.resolve("v0")
    registry.aliases.move("stable", v0, 0)
    registry.aliases.move("stable", v0, 1)
    damage(registry.store, "aliases/stable/2.json", b"{")

    repaired = said(home, "--repair")[1]["repaired"]
    assert len(repaired) == 2
    assert "there is no version that active could name" in repaired[0]
    assert f"stable names {v0} again, as in epoch 1" in repaired[1]
    record = Registry(registry.store).aliases.get("stable")
    assert record is not None
    assert (record.version, record.epoch) == (v0, 3)


def test_derived_files_are_kept_in_quarantine(home: Path, registry: Registry) -> None:
    artefacts = registry.artefacts("c" * 64)
    artefacts.put_once("templates", b"templates")
    key = f"models/{'c' * 64}/templates.json"
    damage(registry.store, key, b"{")
    assert said(home)[0] == 1
    code, found = said(home, "--repair")
    assert (code, found["findings"]) == (0, [])
    [aside] = registry.store.names("quarantine")
    assert found["repaired"] == [f"{key} is quarantine/{aside}"]
    assert registry.store.get(f"quarantine/{aside}") == b"{"
    assert artefacts.get("templates") is None


def test_old_temporary_files_are_deleted_and_new_ones_not(home: Path) -> None:
    folder = home / "registry" / "versions"
    for name, age in ((".old.tmp", 4_000), (".new.tmp", 60)):
        (folder / name).write_bytes(b"half")
        then = time.time() - age
        os.utime(folder / name, (then, then))
    code, found = said(home)
    assert (code, found["temporary"]) == (0, ["versions/.old.tmp"])
    assert (folder / ".old.tmp").exists()
    assert said(home, "--repair")[1]["repaired"] == ["versions/.old.tmp is deleted"]
    assert [path.name for path in folder.glob(".*.tmp")] == [".new.tmp"]


def test_files_that_nothing_names_are_told_and_no_damage(home: Path, registry: Registry) -> None:
    digest = registry.blobs.put(b"of a killed edit")
    code, found = said(home)
    assert code == 0
    assert found["unnamed"] == [f"blobs/sha256/{digest[:2]}/{digest}"]


def test_a_home_without_a_registry_is_refused_and_none_is_made(tmp_path: Path) -> None:
    result = doctor(tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "there is no registry" in result.stderr
    assert not (tmp_path / "nowhere").exists()

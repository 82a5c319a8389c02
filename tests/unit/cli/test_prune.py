"""`memit prune`: shows what would go, and removes it with --apply only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.spans import size
from registry.registry import Registry
from tests.unit.registry.building import accepted, run, with_v0
from tests.unit.registry.stores import damage, everything, grow_old

EVERYTHING = ("--keep", "1", "--older-than", "0")


def prune(home: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["prune", "--home", str(home), *options])


def said(home: Path, *options: str) -> dict[str, Any]:
    result = prune(home, *options, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def home(registry: Registry, registry_path: Path) -> Path:
    """v0 to v3, a blob of a killed edit, a temporary file of a killed writer."""
    with_v0(registry)
    for name in ("one", "two", "three"):
        edit = accepted(name)
        registry.edits.accept(edit)
        run(registry, edit.id)
    digest = registry.blobs.put(b"of a killed edit")
    grow_old(registry.store, f"blobs/sha256/{digest[:2]}/{digest}", 90_000)
    left = registry_path / "versions" / ".old.tmp"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 4_000,) * 2)
    return registry_path.parent


def test_nothing_goes_without_apply(home: Path, registry: Registry) -> None:
    before = everything(registry.store)
    shown = prune(home, *EVERYTHING)
    assert shown.exit_code == 0
    assert "alias active" in shown.stdout
    assert shown.stdout.count("removed: ") == 2
    assert "nothing is removed without --apply" in shown.stdout
    found = said(home, *EVERYTHING)
    assert found["applied"] is False
    assert [one["kept"] for one in found["versions"]] == ["alias active", None, None]
    assert everything(registry.store) == before


def test_what_was_shown_goes(home: Path, registry: Registry) -> None:
    before = everything(registry.store)
    expected = said(home, *EVERYTHING)
    found = said(home, *EVERYTHING, "--apply")
    assert found == expected | {"applied": True}
    after = everything(registry.store)
    gone = set(before) - set(after)
    assert sum(len(before[key]) for key in gone) == found["size"]
    assert len(gone) == 4, "weights of two versions, a blob and a temporary file"
    assert set(after) - set(before) == {"releases/0.json", "releases/1.json"}
    again = said(home, *EVERYTHING, "--apply")
    assert (again["size"], again["leftovers"], again["temporary"]) == (0, [], [])
    assert CliRunner().invoke(app, ["doctor", "--home", str(home)]).exit_code == 0


def test_by_default_what_is_young_stays(home: Path) -> None:
    found = said(home)
    assert [one["kept"] for one in found["versions"]] == [
        "alias active",
        "one of the newest 10",
        "one of the newest 10",
    ]
    young = said(home, "--keep", "1")["versions"]
    assert [one["kept"] for one in young] == ["alias active", "young", "young"]


def test_damage_is_told(home: Path, registry: Registry) -> None:
    damage(registry.store, "edits/by-seq/1.json", b"{")
    found = said(home, *EVERYTHING)
    assert "edits/by-seq/1.json is damaged" in found["not_looked_for"]
    assert (len(found["leftovers"]), found["versions"][2]["kept"]) == (0, None)
    damage(registry.store, f"aliases/active/{registry.aliases.epoch('active')}.json", b"")
    registry.aliases.move("stable", registry.versions.resolve("v1"), 0)
    damage(registry.store, "aliases/stable/1.json", b"")
    refused = prune(home, *EVERYTHING, "--apply")
    assert refused.exit_code == 1
    assert "memit doctor --repair" in refused.stderr


@pytest.mark.parametrize("options", [("--keep", "0"), ("--older-than", "soon")])
def test_a_policy_that_is_none(home: Path, options: tuple[str, str]) -> None:
    assert prune(home, *options, "--apply").exit_code > 0


def test_a_home_without_a_registry(tmp_path: Path) -> None:
    assert "there is no registry" in prune(tmp_path / "nowhere").stderr


def test_sizes() -> None:
    shown = {0: "0 B", 999: "999 B", 1_000: "1 KB", 34_560: "34.6 KB", 999_499: "999 KB"}
    shown |= {999_600: "1 MB", 5_000_000_000: "5 GB", 7 * 10**15: "7e+03 TB"}
    assert {count: size(count) for count in shown} == shown

"""A symbolic link below the registry's folder leads nowhere: it is refused and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from registry import FolderStore, Registry
from registry.checkup import examine
from registry.errors import BlobDamaged, RecordDamaged
from tests.unit.registry.building import accepted, run, with_v0
from tests.unit.registry.stores import everything, grow_old

REFUSED = "is a symbolic link, which is not followed"
KEY = "edits/e1/end.json"
Call = Callable[[FolderStore], object]
READS: list[Call] = [
    lambda store: store.get(KEY),
    lambda store: store.stream(KEY),
    lambda store: store.stream(KEY, 1, 2),
]
OTHERS: list[Call] = [
    lambda store: store.put_if_absent(KEY, b"other"),
]
LOOKS: list[Call] = [
    lambda store: store.size(KEY),
    lambda store: store.exists(KEY),
    lambda store: store.names("edits/e1"),
    lambda store: store.set_aside(KEY),
    lambda store: store.remove(KEY, 0),
]


@pytest.fixture
def store(registry_path: Path) -> FolderStore:
    return FolderStore(registry_path)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What somebody would like to have read or written."""
    folder = tmp_path / "outside"
    (folder / "e1").mkdir(parents=True)
    for file in (folder / "end.json", folder / "e1" / "end.json"):
        file.write_bytes(b"secret")
    return folder


@pytest.fixture(autouse=True)
def _nothing_happens_outside(outside: Path) -> Iterator[None]:
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    yield
    assert before == {path: path.read_bytes() for path in before}
    assert not (outside / "new.json").exists()


@pytest.mark.parametrize("call", READS + OTHERS)
@pytest.mark.parametrize("dangling", [False, True])
def test_in_the_place_of_a_file(
    store: FolderStore, outside: Path, call: Call, dangling: bool
) -> None:
    (store.root / "edits" / "e1").mkdir(parents=True)
    target = outside / ("new.json" if dangling else "end.json")
    (store.root / KEY).symlink_to(target)
    with pytest.raises(RecordDamaged, match=f"{KEY} is damaged: it {REFUSED}"):
        call(store)
    assert store.names("edits/e1") == ["end.json"]
    assert store.exists(KEY)
    assert (store.root / KEY).is_symlink()


@pytest.mark.parametrize("call", READS + OTHERS + LOOKS)
@pytest.mark.parametrize("depth", [1, 2])
def test_in_the_place_of_a_folder(
    store: FolderStore, outside: Path, call: Call, depth: int
) -> None:
    place = "/".join(KEY.split("/")[:depth])
    (store.root / place).parent.mkdir(exist_ok=True)
    (store.root / place).symlink_to(outside, target_is_directory=True)
    with pytest.raises(RecordDamaged, match=f" {place} {REFUSED}|: it {REFUSED}"):
        call(store)


def test_in_the_place_of_the_quarantine(store: FolderStore, outside: Path) -> None:
    store.put_if_absent(KEY, b"damaged")
    (store.root / "quarantine").symlink_to(outside)
    with pytest.raises(RecordDamaged, match=REFUSED):
        store.set_aside(KEY)
    assert store.get(KEY) == b"damaged"


def test_moving_or_removing_takes_the_link_alone(store: FolderStore, outside: Path) -> None:
    for remove in (False, True):
        store.put_if_absent("edits/e1/0.json", b"")
        (store.root / KEY).symlink_to(outside / "end.json")
        if remove:
            assert store.remove(KEY, 0)
        else:
            aside = store.set_aside(KEY)
            assert aside is not None
            assert (store.root / aside).is_symlink()
        assert not store.exists(KEY)


def test_temporary_files_are_not_looked_for_beyond_links(store: FolderStore, outside: Path) -> None:
    (outside / ".old.tmp").write_bytes(b"of somebody else")
    (outside / ".old.tmp").touch()
    (store.root / "edits").symlink_to(outside)
    (store.root / ".link.tmp").symlink_to(outside / "end.json")
    assert store.remove_temporary(0) == [".link.tmp"], "the link itself"
    assert (outside / ".old.tmp").exists()


def test_the_root_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "registry").symlink_to(tmp_path / "disk", target_is_directory=True)
    store = FolderStore(tmp_path / "registry")
    assert store.put_if_absent(KEY, b"data")
    assert (tmp_path / "disk" / KEY).read_bytes() == b"data"


def test_a_blob_is_damaged_and_mended(store: FolderStore, outside: Path) -> None:
    registry = Registry(store)
    digest = registry.blobs.put(b"weights")
    key = f"blobs/sha256/{digest[:2]}/{digest}"
    (outside / "weights").write_bytes(b"weights")
    (store.root / key).unlink()
    (store.root / key).symlink_to(outside / "weights")
    with pytest.raises(BlobDamaged):
        registry.blobs.get(digest)
    with pytest.raises(BlobDamaged):
        registry.blobs.stream(digest)
    assert registry.blobs.put(b"weights") == digest
    assert not (store.root / key).is_symlink()
    assert registry.blobs.get(digest) == b"weights"


def test_lists_go_on_and_the_doctor_names_it(store: FolderStore, outside: Path) -> None:
    registry = Registry(store)
    with_v0(registry)
    edits = [accepted(name) for name in ("one", "two")]
    for edit in edits:
        registry.edits.accept(edit)
        run(registry, edit.id)
    sound = examine(registry)
    assert sound.findings == []
    moved = store.root / "edits" / edits[0].id
    moved.rename(outside / "moved")
    moved.symlink_to(outside / "moved")
    report = f"versions/{registry.versions.resolve('v1')}.report.json"
    (store.root / report).symlink_to(outside / "end.json")

    fresh = Registry(store)
    assert fresh.full_reports.get(fresh.versions.resolve("v1")) is None
    assert fresh.edits.describe(edits[1].id).version == fresh.versions.resolve("v2")
    with pytest.raises(RecordDamaged, match=f"edits/{edits[0].id}"):
        fresh.edits.get(edits[0].id)
    before = everything(store)
    result = CliRunner().invoke(app, ["doctor", "--home", str(store.root.parent), "--json"])
    assert result.exit_code == 1, result.stderr
    assert result.stdout, result.exception
    found = {one["file"]: one["reason"] for one in json.loads(result.stdout)["findings"]}
    assert set(found) >= {f"edits/{edits[0].id}", report}
    assert REFUSED in found[report]
    assert REFUSED in found[f"edits/{edits[0].id}"]
    assert everything(store) == before


@pytest.mark.parametrize("folder", ["versions", "blobs", "aliases", "edits/by-seq"])
def test_the_doctor_names_a_folder_that_is_one(
    store: FolderStore, outside: Path, folder: str
) -> None:
    registry = Registry(store)
    with_v0(registry)
    edit = accepted()
    registry.edits.accept(edit)
    run(registry, edit.id)
    (store.root / folder).rename(outside / "moved")
    (store.root / folder).symlink_to(outside / "moved")
    result = CliRunner().invoke(app, ["doctor", "--home", str(store.root.parent)])
    assert result.exit_code == 1
    assert REFUSED in result.output
    assert folder in result.output


def test_removal_looks_at_the_age_of_the_link(store: FolderStore, outside: Path) -> None:
    store.put_if_absent("edits/e1/0.json", b"")
    (store.root / KEY).symlink_to(outside / "end.json")
    grow_old(store, "edits/e1/0.json", 100)
    assert not store.remove(KEY, 50)

"""A copy of a registry in use names nothing that is not in it; a copy of another one is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.errors import Conflict
from contracts.keys import LOCAL, KeyRequest, Scope
from registry import FolderStore, Registry
from registry.audit_verify import verify
from registry.backup import Backup, back_up
from registry.checkup import examine
from registry.retention import Policy, consider, give_up
from registry.store import Store
from tests.unit.registry.building import accepted, attempt, run, with_v0
from tests.unit.registry.stores import Killed, MemoryStore, Wrapped, damage, everything

FOLDERS = ("aliases", "audit", "blobs", "edits", "hooks", "keys", "models", "releases", "versions")

POLICY = Policy(keep=1, older_than=0)


def backed(store: Store, copy: Store) -> Backup:
    return back_up(store, copy, FOLDERS)


def edited(registry: Registry) -> str:
    edit = accepted(f"city {registry.versions.tip()}")
    registry.edits.accept(edit, "key of " + edit.id, "body")
    version = run(registry, edit.id).version
    assert version is not None
    return version


@pytest.fixture
def full(registry: Registry) -> Registry:
    """Some of everything."""
    with_v0(registry)
    for _ in range(3):
        edited(registry)
    registry.artefacts("b" * 64).put_once("templates", b"templates")
    made = registry.keys.create(KeyRequest(name="x", scopes=[Scope.ADMIN]), LOCAL)
    registry.keys.revoke(made.id, LOCAL)
    registry.store.put_if_absent("hooks/a.json", b"{}")
    list(
        give_up(
            registry, Policy(keep=1, older_than=0), consider(registry, Policy(keep=1, older_than=0))
        )
    )
    registry.store.put_if_absent("versions/bad.json", b"{")
    assert registry.store.set_aside("versions/bad.json")
    registry.audit.catch_up()
    return registry


def test_everything_is_copied_and_later_what_is_new(full: Registry) -> None:
    copy = MemoryStore()
    source = everything(full.store)
    expected = {key: data for key, data in source.items() if not key.startswith("quarantine/")}
    first = backed(full.store, copy)
    assert copy.files == expected
    assert (first.files, first.copied, first.damaged) == (len(expected), len(expected), [])
    assert first.size == sum(map(len, expected.values()))
    again = backed(full.store, copy)
    assert (again.files, again.copied, again.size) == (len(expected), 0, 0)
    edited(full)
    later = backed(full.store, copy)
    assert later.copied == len(everything(full.store)) - len(source)
    assert examine(Registry(copy)).findings == []
    restored = Registry(copy)
    assert restored.versions.resolve("active") == full.versions.resolve("active")
    assert edited(restored).startswith("v5-")


def test_damaged_files_are_left_out_and_named(full: Registry) -> None:
    copy = MemoryStore()
    [live] = {full.versions.get(full.versions.resolve("v2")).live}
    lost = [f"blobs/sha256/{live[:2]}/{live}", "aliases/active/1.json"]
    for key in lost:
        damage(full.store, key, b"{")
    made = backed(full.store, copy)
    assert [one.partition(" ")[0] for one in made.damaged] == lost
    assert set(lost).isdisjoint(copy.files)


def test_another_registry_is_refused(full: Registry) -> None:
    other = Registry(MemoryStore())
    with_v0(other)
    before = everything(other.store)
    with pytest.raises(Conflict, match=r"versions/by-seq/0\.json"):
        backed(full.store, other.store)
    assert everything(other.store) == before


def test_one_that_went_another_way_is_refused(full: Registry) -> None:
    older, newer = MemoryStore(), MemoryStore()
    backed(full.store, older)
    edited(full)
    backed(full.store, newer)
    edited(Registry(older))
    with pytest.raises(Conflict, match="is another file there"):
        backed(older, newer)


class Busy(Wrapped):
    """Does something at each of its operations, until `left` of them are done."""

    def __init__(self, inner: Store, meanwhile: Callable[[], object]) -> None:
        super().__init__(inner)
        self._meanwhile = meanwhile
        self.busy = True

    def names(self, prefix: str) -> list[str]:
        self._go_on()
        found = super().names(prefix)
        self._go_on()
        return found

    def get(self, key: str) -> bytes | None:
        self._go_on()
        return super().get(key)

    def _go_on(self) -> None:
        if self.busy:
            self._meanwhile()


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_while_edits_commit_and_weights_go(registry: Registry, store: Store, every: int) -> None:
    """A step of an edit is done before or after each look of the copy, and weights are removed."""
    with_v0(registry)
    edited(registry)
    working = Registry(store)
    copy = MemoryStore()
    steps: list[object] = []
    running = iter(())

    def meanwhile() -> None:
        nonlocal running
        steps.append(None)
        if len(steps) % every or len(steps) > 150:
            return
        if next(running, "over") == "over":
            edit = accepted(f"town {len(steps)}")
            working.edits.accept(edit, edit.id, "body")
            running = attempt(working, edit.id)
            list(give_up(working, POLICY, consider(working, POLICY)))

    for _ in range(3):
        backed(Busy(store, meanwhile), copy)
        restored = MemoryStore()
        restored.files = dict(copy.files)
        restored._put_at = dict.fromkeys(copy.files, 0.0)
        fresh = Registry(restored)
        assert examine(fresh).findings == []
        for edit_id in fresh.edits.unfinished():
            run(fresh, edit_id)
        for edit_id in fresh.edits.page(1_000)[0]:
            assert fresh.edits.end(edit_id) is not None
        assert edited(fresh)
        assert examine(fresh).findings == []
    assert len(steps) > 100


class Mortal(Wrapped):
    left = 0

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.left == 0:
            raise Killed(key)
        self.left -= 1
        return super().put_if_absent(key, data)


def test_one_that_is_broken_off_is_whole_too(full: Registry) -> None:
    total = backed(full.store, MemoryStore()).copied
    assert total > 30
    for left in range(1, total):
        copy = MemoryStore()
        dying = Mortal(copy)
        dying.left = left
        with pytest.raises(Killed):
            backed(full.store, dying)
        assert examine(Registry(copy)).findings == [], left
        backed(full.store, copy)
        assert len(copy.files) == total


def test_the_audit_log_of_a_copy_is_whole(full: Registry, tmp_path: Path) -> None:
    copy = FolderStore(tmp_path / "copy")
    backed(full.store, copy)
    assert verify(copy)[0] == []
    assert Registry(copy).audit.behind() == 0

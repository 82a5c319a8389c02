"""The audit log has every change once, loses none, and shows when it was tampered with."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from contracts.audit import AuditAction
from contracts.keys import LOCAL, KeyRequest, Scope
from registry.audit_verify import digest_at, verify
from registry.errors import StorageError
from registry.folder_store import FolderStore
from registry.registry import Registry
from registry.store import Store
from tests.unit.registry.building import accepted, run, with_v0
from tests.unit.registry.stores import FullDisk

ASKED = KeyRequest(name="me", scopes=[Scope.EDIT])


def told(registry: Registry) -> list[tuple[str, str, str | None]]:
    """What the log says, oldest first: action, subject, by whom."""
    records, following = registry.audit.page(1000)
    assert following is None
    return [(one.action, one.subject, one.principal) for one in reversed(records)]


def busy(registry: Registry) -> tuple[str, str, str]:
    """Some of every kind of change; ids of a key, of an edit and of a cancelled edit."""
    with_v0(registry)
    key = registry.keys.create(ASKED, LOCAL)
    edit, cancelled = accepted("one", principal=key.id), accepted("two", principal=key.id)
    registry.edits.accept(edit)
    registry.edits.accept(cancelled)
    registry.edits.request_cancel(cancelled.id, "key-aaaaaaaaaaaaaaaa")
    run(registry, edit.id)
    registry.keys.revoke(key.id, LOCAL)
    return key.id, edit.id, cancelled.id


def test_every_change_is_there_with_who_made_it(registry: Registry) -> None:
    key, edit, cancelled = busy(registry)
    assert registry.audit.behind() == 9
    assert registry.audit.catch_up()
    assert registry.audit.behind() == 0
    found = told(registry)
    assert Counter(found) == Counter(
        [
            (AuditAction.ALIAS_MOVED, "active", None),
            (AuditAction.KEY_MADE, key, LOCAL),
            (AuditAction.EDIT_ACCEPTED, edit, key),
            (AuditAction.EDIT_ACCEPTED, cancelled, key),
            (AuditAction.CANCEL_REQUESTED, cancelled, "key-aaaaaaaaaaaaaaaa"),
            (AuditAction.EDIT_ENDED, cancelled, cancelled),
            (AuditAction.ALIAS_MOVED, "active", edit),
            (AuditAction.EDIT_ENDED, edit, edit),
            (AuditAction.KEY_REVOKED, key, LOCAL),
        ]
    )
    records, _ = registry.audit.page(1000)
    times = [one.at for one in reversed(records)]
    assert times == sorted(times)
    assert verify(registry.store)[0] == []


def test_what_is_written_is_not_written_again(registry: Registry) -> None:
    busy(registry)
    while not registry.audit.catch_up(at_once=2):
        pass
    assert len(told(registry)) == 9
    for _ in range(2):
        other = Registry(registry.store)
        assert other.audit.catch_up()
        assert registry.audit.catch_up()
        assert len(told(other)) == 9
    registry.edits.accept(accepted("three"))
    assert Registry(registry.store).audit.catch_up()
    assert registry.audit.catch_up()
    assert len(told(registry)) == 10


def test_a_cancel_that_came_later_is_found_by_another_process(registry: Registry) -> None:
    edit = accepted("one")
    registry.edits.accept(edit)
    assert registry.audit.catch_up()
    registry.edits.request_cancel(edit.id, "key-aaaaaaaaaaaaaaaa")
    assert Registry(registry.store).audit.catch_up()
    assert [action for action, _, _ in told(registry)] == [
        AuditAction.EDIT_ACCEPTED,
        AuditAction.CANCEL_REQUESTED,
        AuditAction.EDIT_ENDED,
    ]


def test_processes_at_once_write_each_change_once(registry: Registry) -> None:
    for n in range(20):
        registry.edits.accept(accepted(f"city {n}"))
    start = threading.Barrier(4)

    def write() -> None:
        own = Registry(registry.store)
        start.wait()
        while not own.audit.catch_up(at_once=3):
            pass

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told(registry)) == 20
    assert len(set(told(registry))) == 20
    assert verify(registry.store)[0] == []


def test_a_full_disk_delays_the_log_and_nothing_else(store: Store) -> None:
    disk = FullDisk(store)
    registry = Registry(disk)
    disk.full = "audit/"
    edits = [accepted("one"), accepted("two")]
    for edit in edits:
        assert registry.edits.accept(edit) == (edit.id, True)
        with pytest.raises(StorageError):
            registry.audit.catch_up()
    disk.full = ""
    assert registry.audit.catch_up()
    assert [subject for _, subject, _ in told(registry)] == [edit.id for edit in edits]


def test_a_damaged_source_does_not_stop_the_log(registry: Registry, registry_path: Path) -> None:
    folder = FolderStore(registry_path)
    registry = Registry(folder)
    broken, whole = accepted("one"), accepted("two")
    registry.edits.accept(broken)
    registry.edits.accept(whole)
    (registry_path / "edits" / broken.id / "request.json").write_bytes(b"{")
    assert registry.audit.catch_up()
    assert [subject for _, subject, _ in told(registry)] == [whole.id]


class TestTampering:
    """Each way to change the past is found, and the record named."""

    @pytest.fixture
    def home(self, registry_path: Path) -> Path:
        registry = Registry(FolderStore(registry_path))
        for n in range(6):
            registry.edits.accept(accepted(f"city {n}", principal="key-aaaaaaaaaaaaaaaa"))
        assert registry.audit.catch_up()
        return registry_path

    def faults(self, home: Path) -> list[tuple[int, str]]:
        return [(one.number, one.reason) for one in verify(FolderStore(home))[0]]

    def test_nothing(self, home: Path) -> None:
        assert self.faults(home) == []
        _, newest, head = verify(FolderStore(home))
        assert newest == 5
        assert digest_at(FolderStore(home), 5) == head

    @pytest.mark.parametrize("number", range(6))
    def test_a_changed_record(self, home: Path, number: int) -> None:
        file = home / "audit" / f"{number}.json"
        record = json.loads(file.read_text())
        record["principal"] = "key-bbbbbbbbbbbbbbbb"
        file.write_text(json.dumps(record))
        found = self.faults(home)
        assert {at for at, _ in found} == {number}
        assert any("says otherwise" in reason for _, reason in found)

    @pytest.mark.parametrize("number", range(5))
    def test_a_missing_record(self, home: Path, number: int) -> None:
        (home / "audit" / f"{number}.json").unlink()
        assert self.faults(home) == [(number, "is missing")]

    def test_the_last_record_is_missing(self, home: Path) -> None:
        """The change itself is still there: the log is behind, and differs from the head kept."""
        head = digest_at(FolderStore(home), 5)
        (home / "audit" / "5.json").unlink()
        registry = Registry(FolderStore(home))
        assert registry.audit.behind() == 1
        assert digest_at(registry.store, 5) != head

    def test_reordered_records(self, home: Path) -> None:
        two, three = (home / "audit" / f"{n}.json" for n in (2, 3))
        first, second = two.read_bytes(), three.read_bytes()
        two.write_bytes(second)
        three.write_bytes(first)
        found = self.faults(home)
        assert (2, "is record 3 in another's place") in found
        assert (3, "is record 2 in another's place") in found

    def test_a_damaged_record(self, home: Path) -> None:
        (home / "audit" / "2.json").write_bytes(b"{")
        found = dict(self.faults(home))
        assert set(found) == {2}

    def test_what_it_speaks_of_was_changed(self, home: Path) -> None:
        registry = Registry(FolderStore(home))
        (edit_id,) = [one.subject for one in registry.audit.page(10)[0] if one.number == 2]
        file = home / "edits" / edit_id / "request.json"
        file.write_text(file.read_text().replace("Rome", "Oslo"))
        assert self.faults(home) == [
            (2, f"speaks of edits/{edit_id}/request.json, which was changed")
        ]
        file.unlink()
        assert self.faults(home) == [
            (2, f"speaks of edits/{edit_id}/request.json, which is missing")
        ]

    def test_a_running_service_writes_a_missing_record_again(self, home: Path) -> None:
        """The very same one, since it says what is still in the registry."""
        file = home / "audit" / "2.json"
        was = file.read_bytes()
        file.unlink()
        registry = Registry(FolderStore(home))
        registry.edits.accept(accepted("later"))
        assert registry.audit.catch_up()
        assert file.read_bytes() == was
        assert self.faults(home) == []
        assert len(told(registry)) == 7

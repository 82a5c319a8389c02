"""Put-if-absent: whole files or none, first writer wins, no key outside; on every kind of store."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry import FolderStore
from registry.errors import StorageError
from registry.store import Store
from tests.unit.registry.stores import everything, grow_old


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "new" / "registry")


def files(store: Store) -> set[str]:
    return set(everything(store))


def test_first_put_wins_and_is_kept_forever(store: Store) -> None:
    assert not store.exists("edits/e1/end.json")
    assert store.get("edits/e1/end.json") is None

    assert store.put_if_absent("edits/e1/end.json", b"first")
    assert not store.put_if_absent("edits/e1/end.json", b"second")

    assert store.get("edits/e1/end.json") == b"first"
    assert b"".join(store.stream("edits/e1/end.json") or ()) == b"first"
    assert store.stream("edits/e1/other.json") is None
    assert files(store) == {"edits/e1/end.json"}


@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, 8), (250, None), (0, 0), (299, 300)])
def test_a_part_of_a_file(store: Store, start: int, stop: int | None) -> None:
    data = os.urandom(300)
    store.put_if_absent("edits/e1/end.json", data)
    assert store.size("edits/e1/end.json") == 300
    assert store.size("edits/e1/other.json") is None
    assert b"".join(store.stream("edits/e1/end.json", start, stop) or ()) == data[start:stop]


def test_names_lists_one_folder_without_temporary_files(store: Store) -> None:
    store.put_if_absent("aliases/active/1.json", b"{}")
    store.put_if_absent("aliases/active/2.json", b"{}")
    store.put_if_absent("aliases/canary/1.json", b"{}")
    if isinstance(store, FolderStore):
        (store.root / "aliases" / "active" / ".0123.tmp").write_bytes(b"left by a crash")

    assert store.names("aliases") == ["active", "canary"]
    assert store.names("aliases/active") == ["1.json", "2.json"]
    assert store.names("aliases/none") == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../outside",
        "edits/../../outside",
        "edits//end.json",
        "edits/",
        "edits/.hidden",
        "edits/a b",
        "edits/a\nb",
        "edits/a\x00b",
        "edits\\a",
        "edits/" + "a" * 129,
        "edits/é",
    ],
)
def test_a_key_that_is_not_a_plain_path_is_refused(store: Store, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put_if_absent(key, b"x"),
        lambda: store.get(key),
        lambda: store.stream(key),
        lambda: store.size(key),
        lambda: store.exists(key),
        lambda: store.names(key),
        lambda: store.set_aside(key),
        lambda: store.replace_damaged(key, b"x"),
        lambda: store.age(key),
        lambda: store.remove(key, 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not a safe key"):
            call()
    assert files(store) == set()


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "link", "mkdir"])
def test_a_full_disk_leaves_nothing_and_is_raised(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as full:
        full.setattr(os, call, no_space)
        with pytest.raises(StorageError, match="No space left"):
            folder.put_if_absent("edits/e1/end.json", b"data")
    assert files(folder) == set()

    assert folder.put_if_absent("edits/e1/end.json", b"data"), "there is space again"
    assert folder.get("edits/e1/end.json") == b"data"


def test_a_write_cut_short_leaves_nothing_and_is_raised(folder: FolderStore) -> None:
    """The kernel writes 4096 bytes and refuses the rest, as on a disk that fills up."""
    folder.put_if_absent("blobs/small", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            folder.put_if_absent("blobs/large", b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(folder) == {"blobs/small"}
    assert not folder.exists("blobs/large")


def test_a_failed_sync_of_the_folder_is_raised_but_takes_nothing_back(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once linked the file is visible, and others may have built on it already."""
    folder.put_if_absent("log/0.json", b"0")
    real, calls = os.fsync, []

    def second_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", second_fails)
        with pytest.raises(StorageError, match="Input/output error"):
            folder.put_if_absent("log/1.json", b"1")

    assert files(folder) == {"log/0.json", "log/1.json"}
    assert not folder.put_if_absent("log/1.json", b"other")
    assert folder.get("log/1.json") == b"1"


def test_a_link_that_a_network_file_system_repeats_still_wins(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def twice(source: Path, target: Path, **places: Any) -> None:
        real(source, target, **places)
        real(source, target, **places)

    monkeypatch.setattr(os, "link", twice)
    assert folder.put_if_absent("log/0.json", b"mine")
    assert not folder.put_if_absent("log/0.json", b"other")


def test_a_folder_that_cannot_be_read_is_a_storage_error(folder: FolderStore) -> None:
    (folder.root / "edits").write_bytes(b"a file where a folder should be")
    calls: list[Callable[[], object]] = [
        lambda: folder.get("edits/e1"),
        lambda: folder.stream("edits/e1"),
        lambda: folder.names("edits"),
        lambda: folder.put_if_absent("edits/e1", b"x"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="edits"):
            call()
    with pytest.raises(StorageError, match="edits"):
        FolderStore(folder.root / "edits" / "registry")


def test_set_aside_frees_the_key_and_keeps_the_bytes(store: Store) -> None:
    store.put_if_absent("blobs/sha256/ab/digest", b"damaged")
    aside = store.set_aside("blobs/sha256/ab/digest")

    assert aside is not None
    assert aside.startswith("quarantine/digest.")
    assert store.get(aside) == b"damaged"
    assert store.set_aside("blobs/sha256/ab/digest") is None
    assert store.put_if_absent("blobs/sha256/ab/digest", b"sound")


def test_damaged_bytes_are_replaced_and_kept_aside(store: Store) -> None:
    key = "blobs/sha256/ab/digest"
    store.put_if_absent(key, b"damaged")
    store.replace_damaged(key, b"sound")
    assert store.get(key) == b"sound"
    [aside] = store.names("quarantine")
    assert store.get(f"quarantine/{aside}") == b"damaged"

    store.set_aside(key)
    store.replace_damaged(key, b"sound")
    assert store.get(key) == b"sound", "also where somebody else has set it aside"
    assert len(store.names("quarantine")) == 2


def test_only_what_nobody_has_put_lately_is_removed(store: Store) -> None:
    key = "blobs/sha256/ab/digest"
    assert not store.remove(key, 0)
    assert store.age(key) is None
    store.put_if_absent(key, b"bytes")
    grow_old(store, key, 100)
    assert 100 <= (store.age(key) or 0) < 110
    assert not store.remove(key, 200)
    assert not store.put_if_absent(key, b"bytes"), "it is there, and counts as new"
    assert not store.remove(key, 50)
    assert store.get(key) == b"bytes"
    grow_old(store, key, 100)
    assert store.remove(key, 50)
    assert not store.exists(key)
    assert files(store) == set()


def test_a_put_in_the_middle_of_a_removal_keeps_the_file(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "blobs/sha256/ab/digest"
    folder.put_if_absent(key, b"bytes")
    grow_old(folder, key, 100)
    real = os.rename

    def after_a_put(*names: str, **places: Any) -> None:
        monkeypatch.setattr(os, "rename", real)
        assert not folder.put_if_absent(key, b"bytes")
        real(*names, **places)

    monkeypatch.setattr(os, "rename", after_a_put)
    assert not folder.remove(key, 50)
    assert folder.get(key) == b"bytes"
    assert files(folder) == {key}


def test_of_many_threads_one_wins_and_all_read_its_bytes(store: Store) -> None:
    threads, keys = 16, [f"race/{n}.json" for n in range(8)]
    start = threading.Barrier(threads)
    won: list[tuple[str, bytes]] = []
    read: set[tuple[str, bytes | None]] = set()

    def race(mine: bytes) -> None:
        start.wait()
        for key in keys:
            if store.put_if_absent(key, mine):
                won.append((key, mine))
            read.add((key, store.get(key)))

    running = [
        threading.Thread(target=race, args=(f"{n}".encode() * 5000,)) for n in range(threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()

    assert sorted(key for key, _ in won) == keys, "one winner a key"
    assert read == set(won), "nobody ever read anything but a winner's whole file"
    assert files(store) == set(keys)

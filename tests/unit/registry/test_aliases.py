"""Aliases: moved by compare-and-swap, never to a version that cannot serve."""

from __future__ import annotations

import threading

import pytest

from contracts.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed
from contracts.versions import AliasRecord
from registry import Registry
from tests.unit.registry.building import accepted, edit_manifest, with_v0


def test_an_alias_is_created_moved_and_rolled_back(registry: Registry) -> None:
    assert registry.aliases.get("active") is None
    assert registry.aliases.names() == []
    v0 = with_v0(registry)
    v1 = registry.versions.commit(edit_manifest(registry, accepted(), 1))
    assert v1 is not None

    moved = registry.aliases.move("active", v1, 1, edit_id="edit-1")
    back = registry.aliases.move("active", v0, 2)
    assert (moved.epoch, moved.version, moved.edit_id) == (2, v1, "edit-1")
    assert (back.epoch, back.version, back.edit_id) == (3, v0, None)

    other = Registry(registry.store)
    assert other.aliases.get("active") == back
    assert [record.version for record in other.aliases.history("active")] == [v0, v1, v0]
    assert other.aliases.names() == ["active"]


@pytest.mark.parametrize("expected", [-1, 0, 2, 99])
def test_a_move_needs_the_present_epoch(registry: Registry, expected: int) -> None:
    v0 = with_v0(registry)
    with pytest.raises(PreconditionFailed, match=f"active is at epoch 1, not at {expected}"):
        registry.aliases.move("active", v0, expected)
    assert len(registry.aliases.history("active")) == 1


def test_a_new_alias_is_epoch_zero(registry: Registry) -> None:
    v0 = with_v0(registry)
    with pytest.raises(PreconditionFailed, match="canary is at epoch 0, not at 1"):
        registry.aliases.move("canary", v0, 1)
    assert registry.aliases.get("canary") is None
    assert registry.aliases.names() == ["active"]
    assert registry.aliases.move("canary", v0, 0).epoch == 1
    assert registry.aliases.names() == ["active", "canary"]
    assert registry.aliases.naming(v0) == ["active", "canary"]


def test_only_a_committed_version_that_passed_its_gate(registry: Registry) -> None:
    with_v0(registry)
    rejected = registry.versions.commit(edit_manifest(registry, accepted(), 1, rejected=True))
    assert rejected is not None
    with pytest.raises(Conflict, match=f"{rejected} was rejected"):
        registry.aliases.move("active", rejected, 1)
    for unknown in ("v1", "v9-000000000000", "active", "../v0"):
        with pytest.raises(NotFound):
            registry.aliases.move("active", unknown, 1)
    assert len(registry.aliases.history("active")) == 1


@pytest.mark.parametrize("name", ["", "Active", "a/b", "..", "a" * 64, "1st", "é", "a\n"])
def test_a_bad_name_is_refused(registry: Registry, name: str) -> None:
    v0 = with_v0(registry)
    with pytest.raises(InvalidRequest, match="at most 62"):
        registry.aliases.move(name, v0, 0)
    assert registry.aliases.get(name) is None
    assert registry.aliases.history(name) == []


@pytest.mark.parametrize("name", ["v12", "v1-0123456789ab"])
def test_no_alias_hides_a_version(registry: Registry, name: str) -> None:
    v0 = with_v0(registry)
    with pytest.raises(InvalidRequest, match="would hide"):
        registry.aliases.move(name, v0, 0)


@pytest.mark.parametrize("split", [False, True])
def test_of_many_moves_at_once_one_wins(registry: Registry, split: bool) -> None:
    v0 = with_v0(registry)
    v1 = registry.versions.commit(edit_manifest(registry, accepted(), 1))
    assert v1 is not None
    start = threading.Barrier(8)
    won: list[AliasRecord] = []
    lost: list[PreconditionFailed] = []

    def move(name: int) -> None:
        own = Registry(registry.store)
        start.wait()
        try:
            to = {v0: 1, v1: 1 + name} if split and name % 2 else v0
            won.append(own.aliases.move("active", to, 1, edit_id=f"edit {name}"))
        except PreconditionFailed as error:
            lost.append(error)

    movers = [threading.Thread(target=move, args=(name,)) for name in range(8)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    assert (len(won), len(lost)) == (1, 7)
    assert registry.aliases.get("active") == won[0]

"""Finishing: the same few steps after a commit, whoever does them and however often."""

from __future__ import annotations

import pytest

from contracts.edits import AcceptedEdit, EditState
from registry import Registry, finish_edit
from tests.unit.registry.building import accepted, attempt, edit_manifest, run, with_v0
from tests.unit.registry.stores import ContestedStore


@pytest.fixture
def edit(registry: Registry) -> AcceptedEdit:
    with_v0(registry)
    edit = accepted()
    registry.edits.accept(edit)
    return edit


def test_without_a_version_there_is_nothing_to_finish(
    registry: Registry, edit: AcceptedEdit
) -> None:
    assert finish_edit(registry, edit.id) is None
    next(attempt(registry, edit.id))
    assert finish_edit(registry, edit.id) is None
    assert registry.edits.unfinished() == [edit.id]


def test_a_committed_edit_is_activated_once(registry: Registry, edit: AcceptedEdit) -> None:
    end = run(registry, edit.id)
    assert (end.state, end.activated) == (EditState.COMMITTED, True)
    assert end.version == registry.versions.resolve("active")
    assert end.problem is None

    assert finish_edit(Registry(registry.store), edit.id) == end
    record = registry.aliases.get("active")
    assert record is not None
    assert (record.epoch, record.edit_id) == (2, edit.id)


@pytest.mark.parametrize("again", [False, True])
def test_a_crash_after_the_alias_moved_is_seen_as_activated(
    registry: Registry, edit: AcceptedEdit, again: bool
) -> None:
    stages = attempt(registry, edit.id)
    for _ in range(3):
        next(stages)
    version = registry.versions.of_edit(edit.id)
    assert version is not None
    registry.aliases.move("active", version, 1, edit.id)
    # ... here the worker died; then an operator rolled back
    v0 = registry.versions.resolve("v0")
    registry.aliases.move("active", v0, 2)

    if again:  # and a second attempt, begun too early to see the version, got to its commit
        assert registry.edits.begin_commit(edit.id, "w2", 3)

    end = finish_edit(Registry(registry.store), edit.id)
    assert end is not None
    assert (end.state, end.activated) == (EditState.COMMITTED, True)
    assert registry.versions.resolve("active") == v0, "the roll-back is not undone"


@pytest.mark.parametrize("rival_ends", [False, True])
def test_two_processes_that_finish_at_once_agree(
    registry: Registry, edit: AcceptedEdit, rival_ends: bool
) -> None:
    stages = attempt(registry, edit.id)
    for _ in range(3):
        next(stages)
    version = registry.versions.resolve("v1")

    def rival() -> None:
        registry.aliases.move("active", version, 1, edit.id)
        if rival_ends:
            finish_edit(registry, edit.id)

    contested = ContestedStore(registry.store)
    contested.key, contested.rival = "aliases/active/2.json", rival
    end = finish_edit(Registry(contested), edit.id)
    assert contested.key == "", "the rival was there"
    assert end is not None
    assert end.activated
    assert end == registry.edits.end(edit.id)
    assert len(registry.aliases.history("active")) == 2


def test_an_alias_that_moved_meanwhile_is_left_alone(
    registry: Registry, edit: AcceptedEdit
) -> None:
    stages = attempt(registry, edit.id)
    next(stages)
    v0 = registry.versions.resolve("v0")
    registry.aliases.move("active", v0, 1)
    list(stages)

    end = registry.edits.end(edit.id)
    assert end is not None
    assert (end.state, end.activated) == (EditState.COMMITTED, False)
    assert registry.versions.resolve("active") == v0


@pytest.mark.parametrize("why", ["no epoch", "dry run", "rejected"])
def test_what_may_not_be_activated_is_not(registry: Registry, edit: AcceptedEdit, why: str) -> None:
    epoch = None if why == "no epoch" else 1
    assert registry.edits.start(edit.id, "w", registry.versions.by_seq(0), epoch)
    assert registry.edits.begin_commit(edit.id, "w", epoch)
    made = edit_manifest(registry, edit, 1, rejected=why == "rejected", dry_run=why == "dry run")
    version = registry.versions.commit(made)

    end = finish_edit(registry, edit.id)
    assert end is not None
    assert (end.version, end.activated) == (version, False)
    assert registry.versions.resolve("active") == registry.versions.by_seq(0)
    if why == "rejected":
        assert end.state is EditState.REJECTED
        assert end.problem is not None
        assert end.problem.detail == "success 0.0 is under 0.5"
        assert end.missed == [edit.request.facts[0].id]
    else:
        assert end.state is EditState.COMMITTED
        assert end.missed == []


def test_dropped_facts_come_from_the_manifest(registry: Registry, edit: AcceptedEdit) -> None:
    dropped = f"fact-{'0' * 20}"
    registry.versions.commit(edit_manifest(registry, edit, 1, dropped=[dropped]))
    end = finish_edit(registry, edit.id)
    assert end is not None
    assert end.dropped == [dropped]
    assert not end.activated, "no COMMITTING step, no epoch"

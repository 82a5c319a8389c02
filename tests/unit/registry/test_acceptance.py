"""Acceptance: an edit is taken once, keeps its place, and a replayed request is the same edit."""

from __future__ import annotations

import threading

import pytest

from contracts.edits import EditRequest
from contracts.errors import Conflict, InvalidRequest, NotFound
from contracts.ids import new_edit_id
from registry import Registry
from registry.errors import RecordDamaged, StorageError
from registry.store import Store
from tests.unit.registry.building import accepted, fact, run, with_v0
from tests.unit.registry.stores import FullDisk, damage, everything


def test_accepted_edits_are_there_for_every_process_in_order(registry: Registry) -> None:
    edits = [accepted(f"city {n}", if_match=n) for n in range(3)]
    for edit in edits:
        assert registry.edits.accept(edit) == (edit.id, True)

    other = Registry(registry.store)
    assert other.edits.unfinished() == [edit.id for edit in edits]
    assert [other.edits.get(edit.id) for edit in edits] == edits
    assert other.edits.exists(edits[0].id)


def test_pages_go_from_the_newest_to_the_oldest(registry: Registry) -> None:
    edits = [accepted(f"city {n}").id for n in range(5)]
    assert registry.edits.page(2) == ([], None)
    for edit_id in edits:
        request = EditRequest(facts=[fact(edit_id)])
        registry.edits.accept(accepted().model_copy(update={"id": edit_id, "request": request}))

    first, before = registry.edits.page(2)
    assert first == [edits[4], edits[3]]
    newer = accepted("accepted between two pages")
    registry.edits.accept(newer)
    second, before = registry.edits.page(2, before)
    assert second == [edits[2], edits[1]]
    third, before = registry.edits.page(2, before)
    assert (third, before) == ([edits[0]], None)
    assert registry.edits.page(10) == ([newer.id, *reversed(edits)], None)
    assert registry.edits.page(5, 5) == (edits[::-1], None), "a last page that is full"
    assert registry.edits.page(5, 10**9) == ([newer.id, *edits[:0:-1]], 1)


def test_unfinished_forgets_what_ended_here_or_elsewhere(registry: Registry) -> None:
    with_v0(registry)
    edits = [accepted(f"city {n}").id for n in range(4)]
    for edit_id in edits:
        registry.edits.accept(accepted().model_copy(update={"id": edit_id}))
    assert registry.edits.unfinished() == edits

    run(registry, edits[1])
    run(Registry(registry.store), edits[3])
    assert registry.edits.unfinished() == [edits[0], edits[2]]
    assert registry.edits.count_unfinished() == 2


@pytest.mark.parametrize("edit_id", ["edit-0", "../../etc", "by-seq", "edit-" + "0" * 20 + "\n"])
def test_what_is_not_an_edit_id_is_not_found(registry: Registry, edit_id: str) -> None:
    edits = registry.edits
    assert not edits.exists(edit_id)
    for call in (edits.get, edits.steps, edits.end, edits.describe, edits.request_cancel):
        with pytest.raises(NotFound, match="no edit"):
            call(edit_id)


def test_an_unknown_edit_is_not_found(registry: Registry) -> None:
    edit_id = new_edit_id()
    assert not registry.edits.exists(edit_id)
    for call in (registry.edits.get, registry.edits.describe, registry.edits.request_cancel):
        with pytest.raises(NotFound, match=edit_id):
            call(edit_id)


def test_an_id_is_not_given_twice(registry: Registry) -> None:
    first = accepted("one")
    registry.edits.accept(first)
    with pytest.raises(Conflict, match=first.id):
        registry.edits.accept(first.model_copy(update={"accepted_at": 0.0}))
    assert registry.edits.accept(first) == (first.id, True)
    assert registry.edits.page(10) == ([first.id], None)


def test_a_damaged_request_is_named(registry: Registry) -> None:
    edit = accepted()
    registry.edits.accept(edit)
    key = f"edits/{edit.id}/request.json"
    damage(registry.store, key, (registry.store.get(key) or b"")[:-2])
    with pytest.raises(RecordDamaged, match=f"edits/{edit.id}/request.json"):
        Registry(registry.store).edits.get(edit.id)


class TestIdempotencyKey:
    def test_a_replay_is_the_same_edit(self, registry: Registry) -> None:
        first, replay = accepted(), accepted()
        assert registry.edits.accept(first, "key", "body") == (first.id, True)
        assert registry.edits.accept(replay, "key", "body") == (first.id, False)
        assert not registry.edits.exists(replay.id)
        assert registry.edits.page(10) == ([first.id], None)

    def test_another_body_is_refused_naming_the_header(self, registry: Registry) -> None:
        first = accepted()
        registry.edits.accept(first, "key", "body")
        with pytest.raises(InvalidRequest, match="Idempotency-Key was used before") as refused:
            registry.edits.accept(accepted(), "key", "another body")
        assert [error.field for error in refused.value.errors] == ["Idempotency-Key"]
        assert registry.edits.page(10) == ([first.id], None)

    def test_without_a_digest_the_request_itself_is_compared(self, registry: Registry) -> None:
        first = accepted("one")
        registry.edits.accept(first, "key")
        assert registry.edits.accept(accepted("one"), "key") == (first.id, False)
        with pytest.raises(InvalidRequest):
            registry.edits.accept(accepted("two"), "key")

    def test_another_key_is_another_edit(self, registry: Registry) -> None:
        edits = [accepted(), accepted()]
        assert registry.edits.accept(edits[0], "key", "body")[1]
        assert registry.edits.accept(edits[1], "other key", "body")[1]
        assert registry.edits.unfinished() == [edit.id for edit in edits]

    def test_a_replay_of_an_ended_edit_does_not_start_it_again(self, registry: Registry) -> None:
        with_v0(registry)
        first = accepted()
        registry.edits.accept(first, "key", "body")
        run(registry, first.id)
        assert registry.edits.accept(accepted(), "key", "body") == (first.id, False)
        assert registry.edits.unfinished() == []

    def test_the_key_itself_is_nowhere_on_disk(self, registry: Registry) -> None:
        registry.edits.accept(accepted(), "../secret key é", "body")
        written = everything(registry.store)
        assert any(key.startswith("idempotency/") for key in written)
        assert not any(b"secret" in key.encode() + data for key, data in written.items())

    @pytest.mark.parametrize("full", ["request.json", "idempotency/", "by-seq/"])
    def test_a_replay_completes_what_a_full_disk_cut_short(self, store: Store, full: str) -> None:
        disk = FullDisk(store)
        registry = Registry(disk)
        disk.full = full
        first, replay = accepted(), accepted()
        with pytest.raises(StorageError, match="No space left"):
            registry.edits.accept(first, "key", "body")
        assert registry.edits.unfinished() == [], "what was not answered 202 does not run"
        disk.full = ""

        standing, new = registry.edits.accept(replay, "key", "body")
        assert standing == (first.id if full == "by-seq/" else replay.id)
        assert new is (full != "by-seq/")
        assert registry.edits.accept(accepted(), "key", "body") == (standing, False)
        assert Registry(store).edits.unfinished() == [standing]
        registry.edits.get(standing)

    def test_of_many_replays_at_once_one_edit_is_made(self, registry: Registry) -> None:
        answers: list[tuple[str, bool]] = []
        start = threading.Barrier(8)

        def post() -> None:
            own = Registry(registry.store)
            start.wait()
            answers.append(own.edits.accept(accepted(), "key", "body"))

        clients = [threading.Thread(target=post) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert len({edit_id for edit_id, _ in answers}) == 1
        assert [new for _, new in answers].count(True) == 1
        assert registry.edits.page(10) == ([answers[0][0]], None)

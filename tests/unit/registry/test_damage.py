"""Records know their own bytes, and what is gone from the end of a log comes back if proven."""

from __future__ import annotations

import contextlib
import json

import pytest

from contracts.edits import EditEnd, EditState
from contracts.errors import Conflict, Problem
from registry import Registry, finish_edit
from registry.errors import RecordDamaged
from registry.records import decode_record, encode_plain, encode_record
from registry.restore import restore_newest
from tests.unit.registry.building import accepted, edit_manifest, run, with_v0
from tests.unit.registry.stores import damage

END = EditEnd(state=EditState.CANCELLED, at=1.5)


def test_every_flipped_bit_is_found_or_changes_nothing() -> None:
    """In the name of the seal alone a bit does no harm: what it seals is read as before."""
    data = encode_record(END)
    for bit in range(8 * len(data)):
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        read = None
        with contextlib.suppress(RecordDamaged):
            read = decode_record(EditEnd, "end.json", bytes(spoiled))
        assert read in (None, END)
        assert read is None or bit // 8 < len('{"digest":"'), "only the seal's name may be another"


def test_records_of_earlier_releases_and_for_them() -> None:
    assert decode_record(EditEnd, "end.json", encode_plain(END)) == END
    assert EditEnd.model_validate_json(encode_record(END)) == END, "as they read it"
    assert set(json.loads(encode_record(END))) - set(EditEnd.model_fields) == {"digest"}


@pytest.mark.parametrize("key", ["versions/by-seq/1.json", "aliases/active/2.json"])
def test_what_an_edit_proves_to_be_gone_is_put_again(registry: Registry, key: str) -> None:
    with_v0(registry)
    edit = accepted()
    registry.edits.accept(edit)
    version = run(registry, edit.id).version
    said = registry.store.get(key)
    damage(registry.store, key, None)

    fresh = Registry(registry.store)
    assert restore_newest(fresh) == [key]
    assert restore_newest(fresh) == []
    assert Registry(registry.store).versions.resolve("active") == version
    if key.startswith("versions"):
        assert registry.store.get(key) == said


def test_an_orphan_is_not_taken_for_a_version(registry: Registry) -> None:
    """Its edit has not ended with it."""
    with_v0(registry)
    edit = accepted()
    registry.edits.accept(edit)
    version = registry.versions.commit(edit_manifest(registry, edit, 1))
    damage(registry.store, "versions/by-seq/1.json", None)
    fresh = Registry(registry.store)
    assert restore_newest(fresh) == []
    assert fresh.versions.tip() == 0
    assert version is not None


def test_an_edit_that_lost_its_place_gets_another(registry: Registry) -> None:
    edits = [accepted(name) for name in ("one", "two", "three")]
    for edit in edits:
        registry.edits.accept(edit)
    damage(registry.store, "edits/by-seq/1.json", b"{")
    fresh = Registry(registry.store)
    assert fresh.edits.unfinished() == [edits[0].id, edits[2].id]
    assert fresh.edits.place_lost() == [edits[1].id]
    assert fresh.edits.unfinished() == [edits[0].id, edits[2].id, edits[1].id]
    assert Registry(registry.store).edits.place_lost() == []
    later = accepted("four")
    assert fresh.edits.accept(later) == (later.id, True)


def test_steps_go_on_after_a_damaged_one(registry: Registry) -> None:
    edit = accepted()
    registry.edits.accept(edit)
    assert registry.edits.start(edit.id, "worker", None, None)
    damage(registry.store, f"edits/{edit.id}/0.json", b"")
    fresh = Registry(registry.store)
    assert fresh.edits.start(edit.id, "worker", None, None)
    assert registry.store.exists(f"edits/{edit.id}/1.json")
    assert len(fresh.edits.steps(edit.id)) == len(fresh.edits.damaged_steps(edit.id)) == 1


def failure(reason: str) -> EditEnd:
    problem = Problem(type="/problems/x", title="x", status=500, detail=reason)
    return EditEnd(state=EditState.FAILED, at=1.0, problem=problem)


def test_an_edit_that_is_being_committed_does_not_fail(registry: Registry) -> None:
    """Two attempts at once: what the one has decided, the other completes."""
    with_v0(registry)
    edit = accepted()
    registry.edits.accept(edit)
    made = edit_manifest(registry, edit, 1)
    assert registry.edits.start(edit.id, "one", None, 1)
    assert registry.edits.begin_commit(edit.id, "one", 1, made)
    with pytest.raises(Conflict, match="is committing"):
        registry.edits.finish(edit.id, failure("the other one"))
    end = finish_edit(Registry(registry.store), edit.id)
    assert end is not None
    assert (end.state, end.activated) == (EditState.COMMITTED, True)
    assert registry.versions.commit_as_next(made) == end.version, "and the one finds it done"


def test_an_edit_that_fails_is_not_committed(registry: Registry) -> None:
    with_v0(registry)
    edit = accepted()
    registry.edits.accept(edit)
    made = edit_manifest(registry, edit, 1)
    assert registry.edits.start(edit.id, "one", None, 1)
    registry.edits.finish(edit.id, failure("the other one"))
    damage(registry.store, f"edits/{edit.id}/end.json", None)  # as if it died before its end

    fresh = Registry(registry.store)
    assert not fresh.edits.begin_commit(edit.id, "one", 1, made)
    assert not fresh.edits.start(edit.id, "two", None, 1)
    end = fresh.edits.end(edit.id)
    assert end is not None
    assert end.problem is not None
    assert (end.state, end.problem.detail) == (EditState.FAILED, "the other one")

"""The ledger: what is live in a version, and where a fact came from."""

from __future__ import annotations

import logging

import pytest

from contracts.errors import NotFound
from contracts.facts import LiveFact
from registry import Registry
from registry.errors import BlobDamaged, RecordDamaged
from tests.unit.registry.building import accepted, edit_manifest, live_fact, manifest, with_v0
from tests.unit.registry.stores import copy_of, damage


def some_facts(count: int) -> list[LiveFact]:
    return [live_fact(accepted(f"city {number}")) for number in range(count)]


def test_live_facts_do_not_depend_on_their_order(registry: Registry) -> None:
    facts = some_facts(5)
    digest = registry.ledger.put_live(facts)
    assert registry.ledger.put_live(facts[::-1]) == digest
    version = registry.versions.commit(manifest(registry, 0, live=digest, live_count=5))
    assert version is not None

    live = Registry(registry.store).ledger.live(version)
    assert live == sorted(facts, key=lambda fact: fact.id)


def test_a_fact_is_found_in_the_versions_that_hold_it(registry: Registry) -> None:
    v0 = with_v0(registry)
    edit = accepted()
    fact = live_fact(edit)
    v1 = registry.versions.commit(edit_manifest(registry, edit, 1))
    assert v1 is not None
    assert registry.ledger.get(fact.id, v1) == fact
    assert registry.ledger.get(fact.id, v0) is None
    assert registry.ledger.live(v0) == []
    with pytest.raises(NotFound):
        registry.ledger.live("v7-000000000000")


def test_a_callers_list_is_its_own(registry: Registry) -> None:
    digest = registry.ledger.put_live(some_facts(2))
    version = registry.versions.commit(manifest(registry, 0, live=digest))
    assert version is not None
    registry.ledger.live(version).clear()
    assert len(registry.ledger.live(version)) == 2


def test_history_of_a_fact_grows_with_the_versions(registry: Registry) -> None:
    with_v0(registry)
    fact_id = live_fact(accepted()).id
    assert registry.ledger.ever(fact_id) == []
    v1 = registry.versions.commit(edit_manifest(registry, accepted(), 1))
    assert registry.ledger.ever(fact_id) == [v1]

    registry.versions.commit(edit_manifest(registry, accepted("another city"), 2))
    other = Registry(registry.store)
    v3 = other.versions.commit(edit_manifest(other, accepted(), 3, rejected=True))
    assert registry.ledger.ever(fact_id) == [v1, v3]


def test_a_damaged_manifest_hides_only_its_own_history(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with_v0(registry)
    lost, kept = accepted("lost"), accepted("kept")
    v1 = registry.versions.commit(edit_manifest(registry, lost, 1))
    v2 = registry.versions.commit(edit_manifest(registry, kept, 2))
    assert v1 is not None
    damage(registry.store, f"versions/{v1}.json", b"{")
    damage(registry.store, copy_of(registry.store, v1), None)

    fresh = Registry(registry.store)
    with caplog.at_level(logging.ERROR):
        assert fresh.ledger.ever(live_fact(kept).id) == [v2]
    assert v1 in caplog.text


def test_a_damaged_ledger_is_detected(registry: Registry) -> None:
    digest = registry.ledger.put_live(some_facts(1))
    version = registry.versions.commit(manifest(registry, 0, live=digest))
    assert version is not None
    spoiled = registry.blobs.get(digest).replace(b"Rome", b"Oslo")
    damage(registry.store, f"blobs/sha256/{digest[:2]}/{digest}", spoiled)
    with pytest.raises(BlobDamaged, match=digest):
        Registry(registry.store).ledger.live(version)


def test_a_blob_that_is_no_ledger_is_not_read_as_one(registry: Registry) -> None:
    digest = registry.blobs.put(b'{"not": "a list"}')
    version = registry.versions.commit(manifest(registry, 0, live=digest))
    assert version is not None
    with pytest.raises(RecordDamaged, match="not a list of live facts"):
        registry.ledger.live(version)


@pytest.mark.parametrize("lost", [(2,), (1, 2)], ids=["the newest", "both"])
@pytest.mark.parametrize("spoiled", [None, b"", b"[]"], ids=["gone", "empty", "other"])
def test_a_lost_ledger_is_made_again_from_the_edits(
    registry: Registry, lost: tuple[int, ...], spoiled: bytes | None
) -> None:
    versions = [with_v0(registry)]
    before: list[LiveFact] = []
    for number, subject in enumerate(("one", "two"), start=1):
        edit = accepted(subject)
        registry.edits.accept(edit)
        brought = live_fact(edit, since=number)
        before = [*before, brought]
        made = edit_manifest(registry, edit, number, parent=versions[-1])
        made = made.model_copy(update={"live": registry.ledger.put_live(before), "live_count": 2})
        versions.append(registry.versions.commit(made) or "")
    for number in lost:
        digest = registry.versions.get(versions[number]).live
        damage(registry.store, f"blobs/sha256/{digest[:2]}/{digest}", spoiled)

    fresh = Registry(registry.store)
    live = fresh.ledger.live(versions[2])
    assert sorted(fact.id for fact in live) == sorted(fact.id for fact in before)
    for version in versions:
        assert fresh.blobs.get(fresh.versions.get(version).live), "it is there again"


def test_a_ledger_of_lost_edits_stays_lost(registry: Registry) -> None:
    parent, edit = with_v0(registry), accepted()
    registry.edits.accept(edit)
    version = registry.versions.commit(edit_manifest(registry, edit, 1, parent=parent)) or ""
    digest = registry.versions.get(version).live
    damage(registry.store, f"blobs/sha256/{digest[:2]}/{digest}", b"[]")
    damage(registry.store, f"edits/{edit.id}/request.json", b"{")
    with pytest.raises(BlobDamaged, match=digest):
        Registry(registry.store).ledger.live(version)

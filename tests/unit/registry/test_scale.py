"""Long logs stay cheap: what was seen once is never read again, and a page costs a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contracts.edits import EditEnd, EditState
from contracts.ids import digest_of, version_id
from registry import Registry
from registry.acceptance import EditEntry
from registry.records import encode_plain, encode_record
from registry.store import Store
from registry.versions import VersionEntry
from tests.unit.registry.building import accepted, edit_manifest, manifest, with_v0
from tests.unit.registry.stores import CountingStore, MemoryStore

EDITS = 500
BY_TENS = 12


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
def counting(store: Store) -> Registry:
    return Registry(CountingStore(store))


@pytest.fixture
def long(store: Store) -> Registry:
    """A registry of `EDITS` edits, all but the last ten ended with a version of their own."""
    registry = Registry(store)
    with_v0(registry)
    plain = manifest(registry, 1)
    for number in range(EDITS):
        edit = accepted(f"city {number}")
        store.put_if_absent(f"edits/{edit.id}/request.json", encode_record(edit))
        entry = EditEntry(edit_id=edit.id)
        store.put_if_absent(f"edits/by-seq/{number}.json", encode_record(entry))
        if number >= EDITS - 10:
            continue
        made = plain.model_copy(update={"seq": number + 1, "edit_id": edit.id})
        version = version_id(made.seq, digest_of(made.model_dump(mode="json")))
        store.put_if_absent(f"versions/{version}.json", encode_plain(made))
        committed = VersionEntry(version=version, edit_id=edit.id)
        store.put_if_absent(f"versions/by-seq/{made.seq}.json", encode_record(committed))
        end = EditEnd(state=EditState.COMMITTED, at=1.0, version=version)
        store.put_if_absent(f"edits/{edit.id}/end.json", encode_record(end))
    return registry


@contextmanager
def at_most(registry: Registry, looks: int) -> Iterator[None]:
    """In this block the disk is looked at no more than `looks` times."""
    assert isinstance(registry.store, CountingStore)
    registry.store.looks = 0
    yield
    assert registry.store.looks <= looks


def test_a_long_history_costs_nothing_once_it_was_seen(long: Registry, counting: Registry) -> None:
    edits, versions = counting.edits, counting.versions
    unfinished = edits.unfinished()
    assert len(unfinished) == 10
    with at_most(counting, 1 + 10):
        assert edits.unfinished() == unfinished

    last = unfinished[-1]
    assert versions.of_edit(last) is None
    with at_most(counting, 1):
        assert versions.of_edit(last) is None

    assert not edits.cancel_requested(last)
    with at_most(counting, 1):
        assert not edits.cancel_requested(last)

    fact_id = edits.get(last).request.facts[0].id
    assert counting.ledger.ever(fact_id) == []
    made = long.versions.commit(edit_manifest(long, edits.get(last), long.versions.tip() + 1))
    with at_most(counting, 6):
        assert counting.ledger.ever(fact_id) == [made]
    with at_most(counting, 1):
        assert versions.of_edit(last) == made


def test_a_new_process_pays_for_what_it_asks(long: Registry, counting: Registry) -> None:
    with at_most(counting, 2 * BY_TENS):
        assert counting.versions.tip() == EDITS - 10
    with at_most(counting, 2 * BY_TENS + 20):
        newest, before = counting.edits.page(20)
    assert before == EDITS - 20
    with at_most(counting, 1 + 20):
        assert len(counting.edits.page(20, before)[0]) == 20
    with at_most(counting, 4):
        counting.versions.get(counting.versions.resolve("v7"))
    with at_most(counting, 8):
        counting.edits.describe(newest[-1])

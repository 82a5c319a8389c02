"""Full reports: at most one a version, the first one stands, and a damaged one harms nothing."""

from __future__ import annotations

import pytest

from contracts.ids import canonical_json, digest_of, version_id
from contracts.reports import FullReport
from registry import Registry
from registry.errors import StorageError
from tests.unit.registry.building import accepted, edit_manifest, with_v0
from tests.unit.registry.stores import FullDisk, damage

FULL = FullReport(
    facts=2, live=3, success=0.5, missed=["fact-0f9a6c1d2e3b4a5f6071"], seconds=1.5, at=2.0
)


def test_the_first_one_stands_and_everybody_sees_it(registry: Registry) -> None:
    v0 = with_v0(registry)
    other = Registry(registry.store)
    assert (other.full_reports.exists(v0), other.full_reports.get(v0)) == (False, None)
    assert other.versions.describe(v0).full_report is None
    assert registry.full_reports.put(v0, FULL) is True
    assert other.full_reports.put(v0, FULL.model_copy(update={"success": 1.0})) is False
    for seen in (registry, other, Registry(registry.store)):
        assert seen.full_reports.exists(v0)
        assert seen.full_reports.get(v0) == FULL
        assert seen.versions.describe(v0).full_report == FULL


def test_a_damaged_one_does_not_hide_its_version(registry: Registry) -> None:
    v0 = with_v0(registry)
    registry.full_reports.put(v0, FULL)
    key = f"versions/{v0}.report.json"
    damage(registry.store, key, (registry.store.get(key) or b"")[:-5])
    assert registry.full_reports.get(v0) is None
    assert not registry.full_reports.exists(v0), "so that a worker measures it again"
    assert registry.versions.describe(v0).full_report is None
    assert registry.full_reports.put(v0, FULL)
    assert not registry.full_reports.put(v0, FULL), "but once only"
    assert registry.full_reports.get(v0) == FULL


def test_a_full_disk_leaves_none(registry: Registry) -> None:
    store = FullDisk(registry.store)
    v0 = with_v0(registry)
    store.full = ".report.json"
    with pytest.raises(StorageError, match="No space left"):
        Registry(store).full_reports.put(v0, FULL)
    assert not registry.full_reports.exists(v0)


def test_a_manifest_from_before_there_were_samples_still_loads(registry: Registry) -> None:
    with_v0(registry)
    raw = edit_manifest(registry, accepted(), 1).model_dump(mode="json")
    del raw["report"]["live_sample"]
    version = version_id(1, digest_of(raw))
    registry.store.put_if_absent(f"versions/{version}.json", canonical_json(raw))
    entry = canonical_json({"version": version, "edit_id": raw["edit_id"]})
    registry.store.put_if_absent("versions/by-seq/1.json", entry)
    old = registry.versions.get(version).report
    assert old is not None
    assert (old.facts, old.live_sample) == (1, None)

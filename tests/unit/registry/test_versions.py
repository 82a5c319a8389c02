"""Versions: numbered without gaps, named by their content, committed once an edit."""

from __future__ import annotations

import hashlib
import json

import pytest

from contracts.errors import NotFound
from contracts.ids import digest_of, version_id
from contracts.reports import Report
from registry import Registry
from registry.errors import BlobMissing, ManifestDamaged
from registry.records import encode_plain
from tests.unit.registry.building import accepted, edit_manifest, manifest, with_v0
from tests.unit.registry.stores import copy_of, damage


def stored(registry: Registry, version: str) -> bytes:
    data = registry.store.get(f"versions/{version}.json")
    assert data is not None
    return data


def test_an_empty_registry_has_no_version(registry: Registry) -> None:
    assert registry.versions.tip() == -1
    assert registry.versions.by_seq(0) is None
    assert registry.versions.page(5) == ([], None)
    for ref in ("v0", "active", "v0-0123456789ab"):
        with pytest.raises(NotFound, match=ref):
            registry.versions.resolve(ref)


def test_the_id_is_the_number_and_the_digest_of_the_manifest(registry: Registry) -> None:
    made = manifest(registry, 0)
    version = registry.versions.commit(made)
    assert version == version_id(0, digest_of(made.model_dump(mode="json")))

    on_disk = stored(registry, version)
    assert version == f"v0-{hashlib.sha256(on_disk).hexdigest()[:12]}"
    assert json.loads(on_disk) == made.model_dump(mode="json")
    assert Registry(registry.store).versions.get(version) == made


def test_numbers_are_taken_once_and_in_order(registry: Registry) -> None:
    first, late = manifest(registry, 0), manifest(registry, 0, device="cuda")
    version = registry.versions.commit(first)
    assert version is not None
    assert registry.versions.commit(late) is None, "the number was taken"
    assert registry.versions.commit(first) == version, "the same commit repeated"
    with pytest.raises(ValueError, match="would leave a gap after 0"):
        registry.versions.commit(manifest(registry, 2))
    assert registry.versions.tip() == 0
    assert registry.versions.by_seq(0) == version
    assert registry.versions.by_seq(-1) is None


def test_a_manifest_that_lost_its_number_is_no_version(registry: Registry) -> None:
    """A crash between manifest and log, or a lost race, leaves an orphan that nothing names."""
    with_v0(registry)
    orphan = manifest(registry, 1)
    data = registry.store.get(f"versions/{registry.versions.by_seq(0)}.json")
    assert data is not None
    lost = version_id(1, digest_of(orphan.model_dump(mode="json")))
    registry.store.put_if_absent(f"versions/{lost}.json", data)

    with pytest.raises(NotFound, match=lost):
        registry.versions.get(lost)
    with pytest.raises(NotFound, match=lost):
        registry.versions.resolve(lost)
    with pytest.raises(NotFound, match=lost):
        registry.aliases.move("canary", lost, 0)


def test_an_edit_is_committed_once(registry: Registry) -> None:
    with_v0(registry)
    edit, other = accepted("one"), accepted("other")
    version = registry.versions.commit(edit_manifest(registry, edit, 1))
    assert version is not None

    again = edit_manifest(registry, edit, 2, device="cuda")
    assert Registry(registry.store).versions.commit(again) == version
    assert registry.versions.tip() == 1
    assert registry.versions.of_edit(edit.id) == version
    assert registry.versions.of_edit(other.id) is None

    elsewhere = Registry(registry.store)
    made = elsewhere.versions.commit(edit_manifest(elsewhere, other, 2))
    assert registry.versions.of_edit(other.id) == made, "committed by another process"


def test_a_version_needs_its_blobs(registry: Registry) -> None:
    with_v0(registry)
    edit = accepted()
    made = edit_manifest(registry, edit, 1)
    with pytest.raises(BlobMissing, match="f" * 64):
        registry.versions.commit(made.model_copy(update={"live": "f" * 64}))
    lost = made.weights[0].model_copy(update={"blob": "e" * 64})
    with pytest.raises(BlobMissing, match="e" * 64):
        registry.versions.commit(made.model_copy(update={"weights": [lost]}))
    assert registry.versions.tip() == 0


def test_what_could_not_be_loaded_again_is_not_committed(registry: Registry) -> None:
    nan = Report(facts=1, success=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        registry.versions.commit(manifest(registry, 0, report=nan))
    unchecked = manifest(registry, 0).model_copy(update={"base": "not a digest"})
    with pytest.raises(ValueError, match="base"):
        registry.versions.commit(unchecked)
    assert registry.versions.tip() == -1
    assert registry.store.names("versions") == []


def test_a_version_is_found_by_id_short_id_and_alias(registry: Registry) -> None:
    v0 = with_v0(registry)
    v1 = registry.versions.commit(edit_manifest(registry, accepted(), 1))
    assert v1 is not None
    resolve = registry.versions.resolve
    assert resolve(v1) == resolve("v1") == v1
    assert resolve(v0) == resolve("v0") == resolve("active") == v0

    registry.aliases.move("active", v1, 1)
    assert resolve("active") == v1


@pytest.mark.parametrize(
    "ref", ["v7", "v0-000000000000", "canary", "", "V0", "../v0", "v00", "v0\n", "a" * 500]
)
def test_what_names_nothing_is_named_in_the_error(registry: Registry, ref: str) -> None:
    with_v0(registry)
    with pytest.raises(NotFound) as error:
        registry.versions.resolve(ref)
    assert repr(ref[:100]) in error.value.detail
    with pytest.raises(NotFound):
        registry.versions.get(ref)


def test_a_version_is_described_with_the_aliases_that_name_it(registry: Registry) -> None:
    v0 = with_v0(registry)
    v1 = registry.versions.commit(edit_manifest(registry, accepted(), 1))
    assert v1 is not None
    registry.aliases.move("stable", v0, 0)
    registry.aliases.move("canary", v1, 0)

    described = registry.versions.describe(v0)
    assert (described.id, described.aliases) == (v0, ["active", "stable"])
    assert (
        described.model_dump(exclude={"id", "aliases", "full_report", "weights_kept"})
        == registry.versions.get(v0).model_dump()
    )
    assert registry.versions.describe(v1).aliases == ["canary"]
    with pytest.raises(NotFound):
        registry.versions.describe("v9-000000000000")


def test_pages_go_from_the_newest_to_the_oldest(registry: Registry) -> None:
    made = [registry.versions.commit(manifest(registry, number)) for number in range(5)]
    assert registry.versions.page(2) == ([made[4], made[3]], 3)
    assert registry.versions.page(2, 3) == ([made[2], made[1]], 1)
    assert registry.versions.page(2, 1) == ([made[0]], None)
    assert registry.versions.page(5) == (made[::-1], None)
    assert registry.versions.page(5, 0) == ([], None)


@pytest.mark.parametrize("how", ["bit", "truncated", "empty", "gone", "another"])
def test_a_damaged_manifest_is_detected_and_never_served(registry: Registry, how: str) -> None:
    with_v0(registry)
    version = registry.versions.commit(edit_manifest(registry, accepted(), 1))
    assert version is not None
    data = stored(registry, version)
    spoiled = {
        "bit": data.replace(b'"p_new":0.9', b'"p_new":0.8'),
        "truncated": data[:-1],
        "empty": b"",
        "gone": None,
        "another": stored(registry, registry.versions.resolve("v0")),
    }[how]
    assert spoiled != data
    damage(registry.store, f"versions/{version}.json", spoiled)
    assert encode_plain(Registry(registry.store).versions.get(version)) == data, "from its copy"
    damage(registry.store, copy_of(registry.store, version), spoiled)

    fresh = Registry(registry.store)
    for call in (fresh.versions.get, fresh.versions.describe, fresh.ledger.live):
        with pytest.raises(ManifestDamaged, match=version):
            call(version)
    with pytest.raises(ManifestDamaged, match=version):
        fresh.aliases.move("active", version, 1)
    assert fresh.versions.resolve("active") == fresh.versions.by_seq(0), "active still serves"


def test_a_manifest_of_a_later_schema_is_not_guessed_at(registry: Registry) -> None:
    data = json.dumps({"schema_version": 2, "seq": 0}).encode()
    version = f"v0-{hashlib.sha256(data).hexdigest()[:12]}"
    registry.store.put_if_absent(f"versions/{version}.json", data)
    entry = json.dumps({"version": version, "edit_id": None}).encode()
    registry.store.put_if_absent("versions/by-seq/0.json", entry)
    with pytest.raises(ManifestDamaged, match="schema"):
        registry.versions.get(version)

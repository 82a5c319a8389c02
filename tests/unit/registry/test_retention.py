"""Weights of old versions are given up and told from lost ones; whatever a policy keeps stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.edits import AcceptedEdit
from contracts.ids import VersionId
from registry import Registry
from registry.blobs import blob_key
from registry.checkup import examine
from registry.errors import BlobMissing, RecordDamaged, StorageError
from registry.leftovers import leftovers, remove_leftovers
from registry.releases import Release
from registry.repair import repair
from registry.retention import Policy, consider, give_up
from registry.store import Store
from tests.unit.registry.building import accepted, edit_manifest, with_v0
from tests.unit.registry.stores import Killed, Wrapped, damage, everything, grow_old

ALL = Policy(keep=1, older_than=0)
DAY = 86_400.0


def made(registry: Registry, **fields: Any) -> VersionId:
    """The next version, by an edit of one fact."""
    edit = accepted(f"city {registry.versions.tip()}")
    registry.edits.accept(edit)
    return committed(registry, edit, **fields)


def committed(registry: Registry, edit: AcceptedEdit, **fields: Any) -> VersionId:
    made_by = edit_manifest(registry, edit, registry.versions.tip() + 1, **fields)
    version = registry.versions.commit(made_by)
    assert version is not None
    return version


def weights(registry: Registry, version: str) -> list[str]:
    return [blob_key(blob) for blob in registry.versions.get(version).blobs]


def why(registry: Registry, policy: Policy = ALL) -> list[str | None]:
    """Why the versions stay, from v1 on."""
    return [one.kept for one in reversed(consider(registry, policy))]


def gone(registry: Registry, policy: Policy = ALL) -> list[str]:
    return list(give_up(registry, policy, consider(registry, policy)))


@pytest.fixture
def five(registry: Registry) -> list[VersionId]:
    """v0 to v5; `active` names v4."""
    versions = [with_v0(registry), *(made(registry) for _ in range(5))]
    registry.aliases.move("active", versions[4], 1)
    return versions


def test_what_the_policy_keeps(registry: Registry, five: list[VersionId]) -> None:
    registry.aliases.move("stable", five[2], 0)
    assert why(registry) == [None, "alias stable", None, "alias active", "one of the newest 1"]
    registry.aliases.move("split", {five[1]: 1, five[3]: 1}, 0)
    assert why(registry)[:3] == ["alias split", "alias stable", "alias split"]
    registry.aliases.move("split", five[2], 1)
    assert why(registry)[:3] == [None, "alias split, stable", None]
    assert why(registry, Policy(keep=3, older_than=0))[2:] == [
        "one of the newest 3",
        "alias active",
        "one of the newest 3",
    ]
    assert why(registry, Policy(keep=1, older_than=60))[0] == "young"


def test_what_was_solved_again_lately_is_kept(registry: Registry, store: Store) -> None:
    with_v0(registry)
    versions = [made(registry, created_at=1.0) for _ in range(3)]
    old = Policy(keep=1, older_than=DAY)
    assert why(registry, old)[0] == "solved again lately"
    grow_old(store, weights(registry, versions[0])[0], 2 * DAY)
    assert why(registry, old)[:2] == [None, "solved again lately"]
    assert gone(registry, old) == versions[:1]


@pytest.mark.parametrize(
    "field", [{"device": "cuda"}, {"software": {"torch": "1"}}, {"covariance": "c" * 64}]
)
def test_what_might_come_out_otherwise_is_kept(registry: Registry, field: dict[str, Any]) -> None:
    with_v0(registry)
    made(registry, **field)
    made(registry, software={"memit-service": "0"})
    made(registry)
    [first, second, _] = why(registry)
    assert first is not None
    assert first.startswith("made by other software")
    assert second is None
    anyway = Policy(keep=1, older_than=0, any_software=True)
    assert why(registry, anyway)[:2] == [None, None]


def test_weights_go_and_all_else_stays(
    registry: Registry, store: Store, five: list[VersionId]
) -> None:
    before = everything(store)
    assert sum(one.size for one in consider(registry, ALL)) == sum(
        len(before[key]) for one in (1, 2, 3) for key in weights(registry, five[one])
    )
    assert gone(registry) == [five[3], five[2], five[1]]
    after = everything(store)
    assert set(before) - set(after) == {
        key for one in (1, 2, 3) for key in weights(registry, five[one])
    }
    assert set(after) - set(before) == {"releases/0.json"}

    for fresh in (registry, Registry(store)):
        kept = [fresh.versions.describe(one).weights_kept for one in five]
        assert kept == [True, False, False, False, True, True]
        assert fresh.ledger.live(five[2])
    assert why(registry)[:3] == ["removed already"] * 3
    assert gone(registry) == []
    assert examine(registry).findings == []


def test_removed_is_told_from_lost(registry: Registry, store: Store, five: list[VersionId]) -> None:
    gone(registry)
    [lost] = weights(registry, five[5])
    damage(store, lost, None)
    assert [one.file for one in examine(Registry(store)).findings] == [lost]
    list(repair(registry, examine(registry).findings))
    damage(store, "releases/0.json", b"{")
    found = {one.file for one in examine(Registry(store)).findings}
    assert found == {
        "releases/0.json",
        lost,
        *(weights(registry, five[one])[0] for one in (1, 2, 3)),
    }


def test_what_is_put_again_may_be_removed_again(
    registry: Registry, store: Store, five: list[VersionId]
) -> None:
    [key] = weights(registry, five[2])
    data = store.get(key) or b""
    gone(registry)
    registry.blobs.put(data)
    assert registry.versions.describe(five[2]).weights_kept
    assert why(registry, Policy(keep=1, older_than=60))[1] == "young"
    assert gone(registry) == [five[2]]
    assert store.names("releases") == ["0.json"], "it is known already"
    assert not store.exists(key)


def test_shared_weights_stay_and_are_counted_once(registry: Registry, store: Store) -> None:
    with_v0(registry)
    same = {"weights": [{"layer": 0, "module": "h", "blob": "", "kind": "low_rank", "rank": 1}]}

    def sharing(data: bytes) -> VersionId:
        same["weights"][0]["blob"] = registry.blobs.put(data)
        edit = accepted(f"city {registry.versions.tip()}")
        registry.edits.accept(edit)
        plain = edit_manifest(registry, edit, registry.versions.tip() + 1)
        version = registry.versions.commit(type(plain).model_validate(plain.model_dump() | same))
        assert version is not None
        return version

    one, two, three, four = map(sharing, (b"often", b"twice", b"twice", b"often"))
    assert why(registry) == [
        "the same weights as a version that is kept",
        None,
        None,
        "one of the newest 1",
    ]
    assert sum(found.size for found in consider(registry, ALL)) == len(b"twice")
    assert gone(registry) == [three]
    assert [registry.versions.has_weights(v) for v in (one, two, three, four)] == [
        True,
        False,
        False,
        True,
    ]
    assert examine(Registry(store)).findings == []


def test_where_an_alias_points_must_be_known(
    registry: Registry, store: Store, five: list[VersionId]
) -> None:
    registry.aliases.move("stable", five[1], 0)
    damage(store, "aliases/stable/1.json", b"{")
    fresh = Registry(store)
    with pytest.raises(RecordDamaged, match=r"aliases/stable/1\.json"):
        consider(fresh, ALL)


def test_a_version_that_cannot_be_read_is_left_alone(
    registry: Registry, store: Store, five: list[VersionId]
) -> None:
    damage(store, "versions/by-seq/2.json", b"{")
    damage(store, f"versions/{five[2]}.json", b"{")
    [key] = weights(registry, five[2])
    head = five[2].partition("-")[2]
    [copy] = (name for name in store.names(f"blobs/sha256/{head[:2]}") if name.startswith(head))
    damage(store, blob_key(copy), None)
    assert gone(Registry(store)) == [five[3], five[1]]
    assert store.exists(key)


class Interleaved(Wrapped):
    """Lets something happen before the first removal."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.meanwhile = lambda: None

    def remove(self, key: str, idle: float) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return super().remove(key, idle)


def test_a_commit_of_the_same_weights_in_the_middle(registry: Registry, store: Store) -> None:
    """It found them there; they go all the same, are no damage, and are solved again."""
    with_v0(registry)
    old = made(registry)
    made(registry)
    [blob] = registry.versions.get(old).blobs
    pruning, other = Interleaved(store), Registry(store)
    again: list[VersionId] = []
    edit = accepted("again")
    registry.edits.accept(edit)
    same = {"weights": registry.versions.get(old).weights}

    def commit() -> None:
        plain = edit_manifest(other, edit, other.versions.tip() + 1).model_copy(update=same)
        assert other.versions.commit(plain) is not None
        again.append(other.versions.resolve("v3"))

    pruning.meanwhile = commit
    assert gone(Registry(pruning)) == [old]
    assert not other.blobs.has(blob)
    assert examine(Registry(store)).findings == []


def test_a_commit_just_after_its_weights_went(registry: Registry) -> None:
    with_v0(registry)
    old = made(registry)
    made(registry)
    edit = accepted("again")
    registry.edits.accept(edit)
    plain = edit_manifest(registry, edit, 3)
    again = plain.model_copy(update={"weights": registry.versions.get(old).weights})
    assert gone(registry) == [old]
    version = registry.versions.commit(again)
    assert version is not None
    never = again.weights[0].model_copy(update={"blob": "e" * 64})
    with pytest.raises(BlobMissing, match="e" * 64):
        registry.versions.commit(
            again.model_copy(update={"weights": [never], "seq": 4, "edit_id": None})
        )


@pytest.mark.parametrize("split", [False, True])
def test_an_alias_that_comes_before_its_version_is_reached(
    registry: Registry, store: Store, five: list[VersionId], split: bool
) -> None:
    pruning, other = Interleaved(store), Registry(store)
    to = {five[1]: 1, five[4]: 1} if split else five[1]
    pruning.meanwhile = lambda: other.aliases.move("stable", to, 0)
    assert gone(Registry(pruning)) == [five[3], five[2]]
    assert Registry(store).versions.describe(five[1]).weights_kept


def test_a_new_version_that_shares_weights_keeps_them(
    registry: Registry, store: Store, five: list[VersionId]
) -> None:
    """It was committed after the first of several removals."""
    pruning, other = Interleaved(store), Registry(store)

    def commit() -> None:
        edit = accepted("again")
        other.edits.accept(edit)
        same = {"weights": other.versions.get(five[1]).weights}
        plain = edit_manifest(other, edit, other.versions.tip() + 1).model_copy(update=same)
        assert other.versions.commit(plain) is not None

    pruning.meanwhile = commit
    assert gone(Registry(pruning)) == [five[3], five[2]]
    assert store.exists(weights(registry, five[1])[0])


class Mortal(Wrapped):
    """Dies before write number `left`, be it a put or a removal."""

    left = 0

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._live()
        return super().put_if_absent(key, data)

    def remove(self, key: str, idle: float) -> bool:
        self._live()
        return super().remove(key, idle)

    def _live(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


@pytest.mark.parametrize("left", range(4))
def test_a_crash_anywhere_is_no_damage_and_the_next_run_completes(
    registry: Registry, store: Store, five: list[VersionId], left: int
) -> None:
    dying = Mortal(store)
    dying.left = left
    with pytest.raises(Killed):
        gone(Registry(dying))
    fresh = Registry(store)
    assert examine(fresh).findings == []
    there = [store.exists(weights(registry, five[n])[0]) for n in (3, 2, 1)]
    assert there == [n >= left - 1 for n in range(3)]
    assert [fresh.versions.describe(five[n]).weights_kept for n in (3, 2, 1)] == there
    gone(fresh)
    assert not any(store.exists(weights(registry, five[n])[0]) for n in (3, 2, 1))


def test_two_runs_at_once(registry: Registry, store: Store, five: list[VersionId]) -> None:
    pruning, other = Interleaved(store), Registry(store)
    pruning.meanwhile = lambda: gone(other)
    assert gone(Registry(pruning)) == []
    assert examine(Registry(store)).findings == []
    first = Release(at=1.0, versions=[five[1]])
    stale, quick = Registry(store).releases, Registry(store).releases
    assert len(stale.versions()) == len(quick.versions()) == 3
    quick.add(first)
    stale.add(first)
    assert store.names("releases") == ["0.json", "1.json", "2.json"]


def test_a_broken_store_is_told_and_the_next_run_completes(
    registry: Registry, store: Store, five: list[VersionId]
) -> None:
    pruning = Interleaved(store)

    def broken() -> None:
        raise StorageError("no answer")

    pruning.meanwhile = broken
    with pytest.raises(StorageError):
        gone(Registry(pruning))
    assert len(gone(Registry(store))) == 3


# blobs that nothing needs


def orphan(registry: Registry, data: bytes, age: float = 2 * DAY) -> str:
    digest = registry.blobs.put(data)
    grow_old(registry.store, blob_key(digest), age)
    return digest


def named(registry: Registry) -> list[str]:
    return [one.digest for one in leftovers(registry, DAY)]


def test_only_what_nothing_needs_is_left_over(
    registry: Registry, store: Store, five: list[VersionId]
) -> None:
    artefacts = registry.artefacts("b" * 64)
    artefacts.put_once("templates", b"templates")
    edit = accepted("decided")
    registry.edits.accept(edit)
    decided = edit_manifest(registry, edit, 6)
    assert registry.edits.begin_commit(edit.id, "worker", 1, decided)
    solved = orphan(registry, b"weights of a cancelled edit")
    artefacts.put_once("solutions/1", json.dumps([{"blob": solved}]).encode())
    unnamed = orphan(registry, b"of a killed edit")
    young = orphan(registry, b"of an edit that runs", age=60)
    for key in everything(store):
        if key.startswith("blobs/") and young not in key:
            grow_old(store, key, 2 * DAY)

    found = leftovers(registry, DAY)
    assert {one.digest for one in found} == {solved, unnamed}
    before = set(everything(store))
    assert remove_leftovers(registry, found, DAY) == 2
    assert before - set(everything(store)) == {blob_key(solved), blob_key(unnamed)}
    assert examine(Registry(store)).findings == []
    assert named(registry) == []
    assert registry.versions.commit(decided) is not None


def test_a_leftover_that_is_put_again_meanwhile_stays(registry: Registry) -> None:
    with_v0(registry)
    digest = orphan(registry, b"of a killed edit")
    found = leftovers(registry, DAY)
    assert [one.digest for one in found] == [digest]
    registry.blobs.put(b"of a killed edit")
    assert remove_leftovers(registry, found, DAY) == 0
    assert registry.blobs.has(digest)


@pytest.mark.parametrize(
    ("lost", "data"),
    [
        ("versions/by-seq/3.json", None),
        ("versions/by-seq/3.json", b"{"),
        ("versions/{}.json", None),
    ],
)
def test_where_a_file_is_lost_nothing_is_left_over(
    registry: Registry, store: Store, five: list[VersionId], lost: str, data: bytes | None
) -> None:
    """What it named cannot be told from what nothing names."""
    orphan(registry, b"of a killed edit")
    assert len(named(registry)) == 1
    damage(store, lost.format(five[3]), data)
    with pytest.raises(RecordDamaged, match=lost.format(five[3])):
        leftovers(Registry(store), DAY)


def test_manifests_without_a_number_keep_their_blobs(registry: Registry, store: Store) -> None:
    """The newest entry of the log may be lost, and put again from the edit."""
    with_v0(registry)
    made(registry)
    damage(store, "versions/by-seq/1.json", None)
    for key in everything(store):
        if key.startswith("blobs/"):
            grow_old(store, key, 2 * DAY)
    assert named(Registry(store)) == []

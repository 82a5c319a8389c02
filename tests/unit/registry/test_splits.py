"""Splits: an alias shares generations out among versions, by weight and by key."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from contracts.errors import Conflict, NotFound
from contracts.versions import AliasRecord
from registry import Registry
from registry.split import drawn, heaviest
from tests.unit.registry.building import accepted, edit_manifest, with_v0

A, B, C = "v9-00000000000a", "v10-00000000000b", "v11-00000000000c"
KEYS = [f"user {number}" for number in range(10_000)]


def shares(split: dict[str, int], alias: str = "active") -> dict[str, str]:
    return {key: drawn(alias, key, split) for key in KEYS}


def versions(registry: Registry, count: int) -> list[str]:
    """v0 and some after it; `active` names v0."""
    made = [with_v0(registry)]
    for seq in range(1, count):
        version = registry.versions.commit(edit_manifest(registry, accepted(f"city {seq}"), seq))
        assert version is not None
        made.append(version)
    return made


@pytest.mark.parametrize(
    "split", [{A: 9, B: 1}, {A: 1, B: 1}, {A: 5, B: 3, C: 2}, {A: 1000, B: 1, C: 1000}]
)
def test_keys_are_shared_out_by_weight(split: dict[str, int]) -> None:
    """Each count is binomial: it lies within five standard deviations of its share."""
    counts = Counter(shares(split).values())
    total = sum(split.values())
    for version, weight in split.items():
        p = weight / total
        assert abs(counts[version] - len(KEYS) * p) < 5 * (len(KEYS) * p * (1 - p)) ** 0.5


def test_a_key_is_drawn_alike_everywhere() -> None:
    """Written down once: another process, release or order of the weights must not differ."""
    split = {A: 2, B: 1, C: 1}
    assert [drawn("active", key, split) for key in ("", "é", "user 2", "user 14")] == [A, A, B, C]
    again = dict(reversed(split.items()))
    assert shares(split) == shares(again) == shares({one: 7 * split[one] for one in split})


def test_aliases_draw_apart() -> None:
    half = {A: 1, B: 1}
    one, other = shares(half), shares(half, alias="canary")
    alike = sum(one[key] == other[key] for key in KEYS)
    assert abs(alike - 5_000) < 250


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({A: 9, B: 1}, {A: 5, B: 5}, 0.4),
        ({A: 5, B: 5}, {A: 1, B: 9}, 0.4),
        ({A: 9, B: 1}, {A: 8, B: 1, C: 1}, 0.1 + 0.9 / 90),
        ({A: 8, B: 1, C: 1}, {A: 90, B: 5, C: 5}, 0.1),
    ],
)
def test_few_keys_move_when_weights_change(
    before: dict[str, int], after: dict[str, int], moved: float
) -> None:
    first, second = shares(before), shares(after)
    moves = [(first[key], second[key]) for key in KEYS if first[key] != second[key]]
    assert abs(len(moves) / len(KEYS) - moved) < 0.025
    for old, new in set(moves):
        grew = after[new] * before.get(old, 0) > before.get(new, 0) * after[old]
        assert grew, f"from {old} to {new}"


def test_the_heaviest_stands_for_the_split_and_of_equals_the_older() -> None:
    assert heaviest({B: 9, A: 1}) == B
    assert heaviest({B: 5, A: 5, C: 5}) == A, "by number, not as text"


def test_a_split_alias_names_all_its_versions(registry: Registry) -> None:
    v0, v1, v2 = versions(registry, 3)
    made = registry.aliases.move("active", {v2: 1, v1: 9}, 1)
    assert (made.version, made.split) == (v1, {v1: 9, v2: 1})
    assert made.versions == [v1, v2]
    other = Registry(registry.store)
    assert other.aliases.get("active") == made
    assert other.versions.resolve("active") == v1
    assert other.versions.describe(v2).aliases == ["active"]
    assert other.versions.describe(v0).aliases == []

    drawn_here = {key: other.versions.resolve("active", key=key) for key in KEYS[:200]}
    assert set(drawn_here.values()) == {v1, v2}
    assert drawn_here == {key: drawn("active", key, {v1: 9, v2: 1}) for key in KEYS[:200]}
    assert other.versions.resolve(v0, key="any") == v0
    assert other.versions.resolve("v2", key="any") == v2

    back = registry.aliases.move("active", v0, 2)
    assert (back.split, other.versions.resolve("active", key="user 1")) == (None, v0)


def test_every_version_of_a_split_must_be_fit(registry: Registry) -> None:
    v0 = with_v0(registry)
    rejected = registry.versions.commit(edit_manifest(registry, accepted(), 1, rejected=True))
    assert rejected is not None
    with pytest.raises(Conflict, match=f"{rejected} was rejected"):
        registry.aliases.move("active", {v0: 9, rejected: 1}, 1)
    with pytest.raises(NotFound, match="no version v9-000000000000"):
        registry.aliases.move("active", {v0: 9, "v9-000000000000": 1}, 1)
    assert len(registry.aliases.history("active")) == 1


def test_records_without_a_split_are_read_and_an_old_reader_sees_the_heaviest(
    registry: Registry,
) -> None:
    v0, v1 = versions(registry, 2)
    old = {"name": "old", "epoch": 1, "version": v0, "at": 1.0, "edit_id": None}
    registry.store.put_if_absent("aliases/old/1.json", json.dumps(old).encode())
    record = registry.aliases.get("old")
    assert record == AliasRecord(name="old", epoch=1, version=v0, at=1.0)
    assert registry.versions.resolve("old", key="user 1") == v0

    registry.aliases.move("old", {v0: 1, v1: 2}, 1)
    written = json.loads(registry.store.get("aliases/old/2.json") or b"")
    assert {field: written[field] for field in old} == {**old, "epoch": 2, "version": v1} | {
        "at": written["at"]
    }


def test_the_history_comes_newest_first_with_ends(registry: Registry) -> None:
    v0, v1 = versions(registry, 2)
    registry.aliases.move("active", {v0: 1, v1: 1}, 1)
    registry.aliases.move("active", v1, 2, edit_id="edit-0123456789abcdef0123")
    whole, following = registry.aliases.page("active", 10)
    assert following is None
    assert [(one.epoch, one.version) for one in whole] == [(3, v1), (2, v0), (1, v0)]
    assert [one.until for one in whole] == [None, whole[0].at, whole[1].at]
    assert [one.edit_id for one in whole] == ["edit-0123456789abcdef0123", None, None]
    assert whole[1].split == {v0: 1, v1: 1}

    first, following = registry.aliases.page("active", 2)
    rest, last = registry.aliases.page("active", 2, following)
    assert (first + rest, following, last) == (whole, 2, None)
    assert registry.aliases.page("active", 2, before=-5) == ([], None)

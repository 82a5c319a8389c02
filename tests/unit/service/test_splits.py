"""Splits and histories of aliases over HTTP, up to the version that a generation gets."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from registry.registry import Registry
from registry.split import drawn
from tests.unit.service.conftest import House, Serve
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor, Engine, says

ASK = {"prompt": "The Eiffel Tower is in", "max_tokens": 1}
STICKY = "X-Memit-Sticky"


@pytest.fixture
def three(client: httpx2.Client, editor: Editor, registry: Registry) -> list[str]:
    """v0, and two versions with one and two facts; the newest is active, at epoch 3."""
    for subject in ("Oslo", "Bern"):
        editor.run(client.post("/edits", json={"facts": [about(subject)]}).json()["id"])
    return [str(registry.versions.by_seq(number)) for number in range(3)]


def put(client: httpx2.Client, epoch: int, **body: Any) -> httpx2.Response:
    return client.put("/aliases/active", json=body, headers={"If-Match": f'"{epoch}"'})


def test_a_split_is_stored_with_full_ids(client: httpx2.Client, three: list[str]) -> None:
    assert client.put("/aliases/stable", json={"version": "v1"}).status_code == 201
    made = put(client, 3, split={three[2]: 1, "stable": 9})
    assert made.status_code == 200
    assert made.headers["ETag"] == '"4"'
    record = made.json()
    assert record["split"] == {three[1]: 9, three[2]: 1}
    assert record["version"] == three[1], "the heaviest"
    assert client.get("/aliases/active").json() == record
    assert client.get("/versions/active").json()["id"] == three[1]
    assert client.get("/facts").json()["version"] == three[1]
    for version in ("v1", "v2"):
        assert "active" in client.get(f"/versions/{version}").json()["aliases"]

    # An alias without a split may stand for its version, this one itself too.
    assert put(client, 4, version="v2").json()["split"] is None
    assert put(client, 5, split={"active": 9, "v1": 1}).json()["version"] == three[2]
    late = put(client, 5, split={"v1": 1, "v2": 1})
    assert late.status_code == 412


def test_an_edit_starts_from_the_heaviest_and_replaces_the_split(
    client: httpx2.Client, editor: Editor, registry: Registry, three: list[str]
) -> None:
    put(client, 3, split={"v1": 9, "v2": 1})
    edit = client.post("/edits", json={"facts": [about("Rome")]}).json()
    end = editor.run(edit["id"])
    assert end.activated
    version = client.get("/versions/v3").json()
    assert version["parent"] == three[1]
    record = client.get("/aliases/active").json()
    assert (record["version"], record["split"], record["edit_id"]) == (
        version["id"],
        None,
        edit["id"],
    )


def test_a_key_gets_one_version_in_every_process(
    client: httpx2.Client, serve: Serve, three: list[str], redis_url: str
) -> None:
    split = {three[1]: 3, three[2]: 1}
    put(client, 3, split=split)
    other = serve()
    with Engine(redis_url, says("x")).running() as engine:
        engine.report(versions=three)
        # Version ids are new in every run, and with them who is drawn for which.
        users = [f"user {number}" for number in range(1_000)]
        drawn_for = {one: [u for u in users if drawn("active", u, split) == one] for one in split}
        for key in [user for of_one in drawn_for.values() for user in of_one[:6]]:
            for asked in (client, other, client):
                answer = asked.post("/generate", json=ASK, headers={STICKY: key})
                assert answer.headers["X-Memit-Version"] == drawn("active", key, split)
        assert {task.version for task in engine.tasks} == {three[1], three[2]}
        # A version by its id is that version.
        answer = client.post("/generate", json={**ASK, "version": "v0"}, headers={STICKY: "user 1"})
        assert answer.json()["version"] == three[0]


def test_without_a_key_versions_are_drawn_by_weight(
    client: httpx2.Client, three: list[str], redis_url: str
) -> None:
    put(client, 3, split={"v1": 3, "v2": 1})
    with Engine(redis_url, says("x")).running() as engine:
        engine.report(versions=three)
        answers = [client.post("/generate", json=ASK).json()["version"] for _ in range(120)]
    counts = Counter(answers)
    assert sum(counts.values()) == counts[three[1]] + counts[three[2]]
    assert abs(counts[three[1]] - 90) < 5 * (120 * 3 / 4 / 4) ** 0.5


def test_metrics_show_every_version_of_the_split(client: httpx2.Client, three: list[str]) -> None:
    put(client, 3, split={"v1": 9, "v2": 1})
    families = text_string_to_metric_families(client.get("/metrics").text)
    seen: dict[str, set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        if "version" in sample.labels:
            seen.setdefault(sample.name, set()).add(sample.labels["version"])
    assert seen["memit_active_version_info"] == {three[1], three[2]}
    assert seen["memit_version_success"] == {three[1], three[2]}


@pytest.mark.parametrize(
    ("body", "status", "field", "reason", "limit"),
    [
        ({}, 422, "/version", "is required, or split in its place", None),
        ({"version": None}, 422, "/version", "is required, or split in its place", None),
        (
            {"version": "v0", "split": {"v0": 1, "v1": 1}},
            422,
            "/version",
            "must not be given beside split",
            None,
        ),
        ({"split": {"v0": 1}}, 422, "/split", "must have at least 2 items", 2),
        ({"split": {}}, 422, "/split", "must have at least 2 items", 2),
        (
            {"split": {f"v{number}": 1 for number in range(9)}},
            422,
            "/split",
            "must have at most 8 items",
            8,
        ),
        ({"split": {"v0": 0, "v1": 1}}, 422, "/split/v0", "greater than or equal to 1", 1),
        ({"split": {"v0": 1, "v1": 1001}}, 422, "/split/v1", "less than or equal to 1000", 1000),
        ({"split": {"v0": 1, "v1": 0.5}}, 422, "/split/v1", "must be a valid integer", None),
        ({"split": {"v0": 1, "v1": True}}, 422, "/split/v1", "must be a valid integer", None),
        ({"split": {"v0": 1, "v1": "9"}}, 422, "/split/v1", "must be a valid integer", None),
        ({"split": ["v0", "v1"]}, 422, "/split", "must be a valid dictionary", None),
        ({"split": {"v0": 1, "active": 1}}, 422, "/split/active", "the same version as v0", None),
    ],
)
def test_a_wrong_split_is_refused(
    refusing: House, body: object, status: int, field: str, reason: str, limit: int | None
) -> None:
    answer = refusing.client.put("/aliases/canary", json=body)
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert reason in error["reason"]
    assert error["limit"] == limit
    assert refusing.registry.aliases.names() == ["active"]


def test_an_unknown_version_in_a_split(refusing: House) -> None:
    answer = refusing.client.put("/aliases/canary", json={"split": {"v0": 1, "v9": 1}})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no version or alias 'v9'"


def test_neither_a_split_alias_nor_a_rejected_version_in_a_split(
    client: httpx2.Client, editor: Editor, three: list[str]
) -> None:
    client.put("/aliases/canary", json={"split": {"v1": 1, "v2": 1}})
    nested = client.put("/aliases/more", json={"split": {"canary": 1, "v0": 1}})
    assert nested.status_code == 422
    (error,) = nested.json()["errors"]
    assert error["field"] == "/split/canary"
    assert "is an alias with a split" in error["reason"]
    editor.run(client.post("/edits", json={"facts": [about("Rome")]}).json()["id"], reject=True)
    rejected = client.put("/aliases/more", json={"split": {"v0": 9, "v3": 1}})
    assert rejected.status_code == 409
    assert "was rejected by its gate" in rejected.json()["detail"]
    assert client.get("/aliases/more").status_code == 404


@pytest.mark.parametrize(("key", "reason"), [("", "empty"), ("k" * 201, "at most 200 characters")])
def test_a_wrong_key_is_refused(refusing: House, key: str, reason: str) -> None:
    answer = refusing.client.post("/generate", json=ASK, headers={STICKY: key})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"].lower() == STICKY.lower()
    assert reason in error["reason"]


def test_the_history_of_an_alias(client: httpx2.Client, three: list[str]) -> None:
    put(client, 3, split={"v1": 9, "v2": 1})
    before = time.time()
    put(client, 4, version="v0")
    whole = client.get("/aliases/active/history").json()
    assert whole["next_cursor"] is None
    items = whole["items"]
    assert [one["epoch"] for one in items] == [5, 4, 3, 2, 1]
    assert [one["version"] for one in items] == [three[0], three[1], three[2], three[1], three[0]]
    assert [one["split"] for one in items] == [None, {three[1]: 9, three[2]: 1}, None, None, None]
    assert [one["until"] for one in items] == [None, *(one["at"] for one in items[:-1])]
    assert items[0]["at"] >= before
    edits = [one["edit_id"] for one in items]
    assert edits[:2] == [None, None]
    assert edits[2] == client.get("/versions/v2").json()["edit_id"]

    first = client.get("/aliases/active/history", params={"limit": 3}).json()
    params = {"limit": 3, "cursor": first["next_cursor"]}
    rest = client.get("/aliases/active/history", params=params).json()
    assert first["items"] + rest["items"] == items
    assert rest["next_cursor"] is None
    client.put("/aliases/canary", json={"version": "v1"})
    other = client.get("/aliases/canary/history", params=params)
    assert other.status_code == 422
    assert other.json()["detail"] == "cursor is no next_cursor of a list of epochs of canary"


@pytest.mark.parametrize("name", ["stable", "Active", "v0", "%00"])
def test_no_history_of_no_alias(refusing: House, name: str) -> None:
    answer = refusing.client.get(f"/aliases/{name}/history")
    assert answer.status_code == 404
    assert answer.json()["title"] == "Not found"

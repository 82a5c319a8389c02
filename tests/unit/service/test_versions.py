"""Versions and aliases over HTTP: look, promote, roll back, take away."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import httpx2
import pytest
import redis as blocking
from rq import Queue
from rq.serializers import JSONSerializer

from contracts.reports import FullReport
from contracts.transport import CHANGES_CHANNEL, EDIT_QUEUE
from registry.blobs import blob_key
from registry.registry import Registry
from registry.releases import Release
from tests.unit.service.conftest import House
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import WEIGHTS, Editor


@pytest.fixture
def three(client: httpx2.Client, editor: Editor, registry: Registry) -> list[str]:
    """v0, and two versions with one and two facts; the newest is active."""
    for subject in ("Oslo", "Bern"):
        editor.run(client.post("/edits", json={"facts": [about(subject)]}).json()["id"])
    return [str(registry.versions.by_seq(number)) for number in range(3)]


def test_before_the_first_version_lists_are_empty(client: httpx2.Client) -> None:
    assert client.get("/versions").json() == {"items": [], "next_cursor": None, "damaged": []}
    assert client.get("/aliases").json() == []
    assert client.get("/aliases/active").status_code == 404


def test_versions_are_listed_newest_first(client: httpx2.Client, three: list[str]) -> None:
    first = client.get("/versions", params={"limit": 2}).json()
    rest = client.get("/versions", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    listed = first["items"] + rest["items"]
    assert [version["id"] for version in listed] == three[::-1]
    assert rest["next_cursor"] is None
    assert listed[0]["aliases"] == ["active"]
    assert listed[0]["report"]["per_fact"] == []


@pytest.mark.parametrize("ref", ["v2", "active", "full"])
def test_a_version_by_any_of_its_names(client: httpx2.Client, three: list[str], ref: str) -> None:
    version = client.get(f"/versions/{three[2] if ref == 'full' else ref}").json()
    assert version["id"] == three[2]
    assert version["parent"] == three[1]
    assert version["live_count"] == 2
    assert version["report"]["per_fact"][0]["success"] is True


def test_the_full_report_is_shown_once_it_is_there(
    client: httpx2.Client, registry: Registry, three: list[str]
) -> None:
    assert client.get("/versions/v2").json()["full_report"] is None
    missed = ["fact-0f9a6c1d2e3b4a5f6071"]
    full = FullReport(facts=2, live=2, success=0.5, missed=missed, seconds=1, at=2)
    registry.full_reports.put(three[2], full)
    assert client.get("/versions/v2").json()["full_report"] == full.model_dump()
    assert client.get("/versions/v1").json()["full_report"] is None
    listed = client.get("/versions").json()["items"][0]["full_report"]
    assert listed == full.model_dump() | {"missed": []}


def test_a_rejected_version_lists_what_missed(client: httpx2.Client, editor: Editor) -> None:
    made = client.post("/edits", json={"facts": [about("Oslo"), about("Bern")]}).json()
    oslo, bern = (fact["id"] for fact in made["facts"])
    editor.run(made["id"], reject=True, missed=(bern,))
    assert client.get(f"/edits/{made['id']}").json()["missed"] == [bern]
    version = client.get("/versions/v1").json()
    assert version["status"] == "rejected"
    per_fact = {one["id"]: one["success"] for one in version["report"]["per_fact"]}
    assert per_fact == {oslo: True, bern: False}


@pytest.mark.parametrize("ref", ["v9", "v0-000000000000", "stable", "V0", "..%2fversions", "%00"])
@pytest.mark.parametrize("path", ["/versions/{}", "/versions/{}/checkpoint"])
def test_an_unknown_version_is_not_found(refusing: House, path: str, ref: str) -> None:
    answer = refusing.client.get(path.format(ref))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_checkpoint_is_a_zip_of_what_the_version_is(
    client: httpx2.Client, three: list[str]
) -> None:
    answer = client.get("/versions/v2/checkpoint", params={"format": "delta"})
    assert answer.headers["content-type"] == "application/zip"
    name = f"memit-{three[2]}-delta.zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert archive.namelist() == ["manifest.json", "facts.json", f"weights/{digest}.safetensors"]
    manifest = json.loads(archive.read("manifest.json"))
    assert manifest["id"] == three[2]
    assert manifest["weights"][0]["blob"] == digest
    facts = json.loads(archive.read("facts.json"))
    assert {fact["fact"]["subject"] for fact in facts} == {"Oslo", "Bern"}
    assert archive.read(f"weights/{digest}.safetensors") == WEIGHTS
    # The same version gives the same bytes; v0 is a checkpoint of nothing.
    assert client.get("/versions/v2/checkpoint").content == answer.content
    untouched = zipfile.ZipFile(io.BytesIO(client.get("/versions/v0/checkpoint").content))
    assert untouched.namelist() == ["manifest.json", "facts.json"]


def test_a_damaged_checkpoint_is_not_sent(
    client: httpx2.Client, registry: Registry, three: list[str]
) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (blob,) = registry.store.root.rglob(digest)
    blob.chmod(0o600)
    blob.write_bytes(b"half")
    answer = client.get("/versions/v2/checkpoint")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert f"blob {digest} is damaged" in detail
    assert "generate with the version once" in detail


def test_other_formats_are_refused_with_those_there_are(refusing: House) -> None:
    answer = refusing.client.get("/versions/v0/checkpoint", params={"format": "pickle"})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["reason"]) == ("format", "must be 'delta', 'peft' or 'merged'")


def test_rolling_back_and_forth(
    client: httpx2.Client, registry: Registry, three: list[str], redis_url: str
) -> None:
    before = client.get("/aliases/active")
    assert before.headers["ETag"] == '"3"'
    assert before.json()["version"] == three[2]
    with blocking.Redis.from_url(redis_url) as connection, connection.pubsub() as heard:
        heard.subscribe(CHANGES_CHANNEL)
        assert heard.get_message(timeout=2)["type"] == "subscribe"
        back = client.put("/aliases/active", json={"version": "v1"}, headers={"If-Match": '"3"'})
        assert heard.get_message(timeout=2)["data"] == b"active"
    assert back.status_code == 200
    assert back.headers["ETag"] == '"4"'
    assert (back.json()["version"], back.json()["epoch"]) == (three[1], 4)
    assert registry.versions.resolve("active") == three[1]

    late = client.put("/aliases/active", json={"version": "v0"}, headers={"If-Match": '"3"'})
    assert late.status_code == 412
    assert late.json()["detail"] == "alias active is at epoch 4, If-Match says 3"
    blind = client.put("/aliases/active", json={"version": "v0"})
    assert blind.status_code == 428
    assert blind.json()["errors"][0]["field"] == "If-Match"
    assert registry.versions.resolve("active") == three[1]


def test_a_new_alias(client: httpx2.Client, three: list[str]) -> None:
    made = client.put("/aliases/canary", json={"version": "v1"}, headers={"If-None-Match": "*"})
    assert made.status_code == 201
    assert made.headers["ETag"] == '"1"'
    again = client.put("/aliases/canary", json={"version": "v2"}, headers={"If-None-Match": "*"})
    assert again.status_code == 412
    assert client.put("/aliases/stable", json={"version": "canary"}).json()["version"] == three[1]
    assert [alias["name"] for alias in client.get("/aliases").json()] == [
        "active",
        "canary",
        "stable",
    ]
    assert client.get("/versions/v1").json()["aliases"] == ["canary", "stable"]


@pytest.mark.parametrize(
    ("name", "body", "headers", "status", "says"),
    [
        ("canary", {"version": "v9"}, {}, 404, "no version or alias 'v9'"),
        ("canary", {"version": "v0"}, {"If-Match": '"1"'}, 412, "there is no alias 'canary'"),
        ("canary", {"version": 7}, {}, 422, "/version must be a valid string"),
        ("canary", {}, {}, 422, "/version is required"),
        ("canary", {"version": "v0"}, {"If-None-Match": '"1"'}, 422, "If-None-Match must be *"),
        ("canary", {"version": "v0"}, {"If-Match": "1"}, 400, "such as"),
        ("v7", {"version": "v0"}, {}, 422, "would hide"),
        ("Canary", {"version": "v0"}, {}, 422, "lower-case"),
        ("..%2fx", {"version": "v0"}, {}, 404, "there is nothing at"),
    ],
)
def test_a_wrong_move_is_refused(
    refusing: House, name: str, body: object, headers: dict[str, str], status: int, says: str
) -> None:
    answer = refusing.client.put(f"/aliases/{name}", json=body, headers=headers)
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert refusing.registry.aliases.names() == ["active"]


def test_a_rejected_version_gets_no_alias(client: httpx2.Client, editor: Editor) -> None:
    made = client.post("/edits", json={"facts": [about("Oslo")]}).json()
    editor.run(made["id"], reject=True)
    answer = client.put("/aliases/canary", json={"version": "v1"})
    assert answer.status_code == 409
    assert "was rejected by its gate" in answer.json()["detail"]


def test_weights_that_were_removed_are_told_and_solved_again(
    client: httpx2.Client, registry: Registry, three: list[str], redis_url: str
) -> None:
    [weights] = registry.versions.get(three[1]).blobs
    assert client.get("/versions/v1").json()["weights_kept"] is True
    registry.releases.add(Release(at=1.0, versions=[three[1]]))
    assert registry.store.remove(blob_key(weights), 0)

    assert client.get("/versions/v1").json()["weights_kept"] is False
    listed = {one["id"]: one["weights_kept"] for one in client.get("/versions").json()["items"]}
    assert listed[three[1]] is False
    assert client.get("/versions/v1/ledger").status_code == 200
    for form in ("delta", "peft"):
        answer = client.get("/versions/v1/checkpoint", params={"format": form})
        assert answer.status_code == 503
        assert "are solved again now" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
    with blocking.Redis.from_url(redis_url) as redis:
        queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)
        assert [job for job in queue.job_ids if "rebuild" in job] == [f"rebuild-{three[1]}"]

    assert registry.blobs.put(WEIGHTS) == weights, "as a worker does"
    assert client.get("/versions/v1").json()["weights_kept"] is True
    assert client.get("/versions/v1/checkpoint").status_code == 200

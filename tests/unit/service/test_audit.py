"""The log over HTTP, and that nobody waits for it or fails with it."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2

from contracts.keys import LOCAL, KeyRequest, Scope
from registry.audit_verify import verify
from registry.registry import Registry
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor

SOON = 10.0


def test_changes_are_listed_at_once(
    client: httpx2.Client, registry: Registry, editor: Editor
) -> None:
    key = registry.keys.create(KeyRequest(name="me", scopes=[Scope.ADMIN]), LOCAL)
    headers = {"Authorization": f"Bearer {key.key}"}
    made = client.post("/edits", json={"facts": [about("Rome")]}, headers=headers).json()["id"]
    editor.run(made)
    moved = client.put(
        "/aliases/canary", json={"version": "v0"}, headers={**headers, "If-None-Match": "*"}
    )
    assert moved.status_code == 201
    first = client.get("/audit", params={"limit": 4}, headers=headers).json()
    rest = client.get(
        "/audit", params={"limit": 500, "cursor": first["next_cursor"]}, headers=headers
    ).json()
    records = [*first["items"], *rest["items"]]
    assert [record["number"] for record in records] == list(range(len(records)))[::-1]
    told = {(one["action"], one["subject"], one["principal"]) for one in records}
    assert told == {
        ("alias.moved", "active", None),  # the untouched model, by a worker
        ("key.made", key.id, LOCAL),
        ("edit.accepted", made, key.id),
        ("alias.moved", "active", made),
        ("edit.ended", made, made),
        ("alias.moved", "canary", key.id),
    }
    assert key.key[23:] not in str(records)


def test_the_log_is_kept_although_nobody_asks(
    client: httpx2.Client, registry: Registry, editor: Editor
) -> None:
    made = client.post("/edits", json={"facts": [about("Rome")]}).json()["id"]
    deadline = time.monotonic() + SOON
    while f"edits/{made}/request.json" not in {one.source for one in registry.audit.page(10)[0]}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert verify(registry.store)[0] == []


def test_a_log_that_cannot_be_written_fails_no_request(
    serve: Serve, registry: Registry, registry_path: Path, editor: Editor
) -> None:
    """What is accepted meanwhile is written once it can be."""
    (registry_path / "audit").write_text("in the way")
    client = serve()
    answers = [client.post("/edits", json={"facts": [about(city)]}) for city in ("Rome", "Oslo")]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert client.get("/audit").status_code == 503
    (registry_path / "audit").unlink()
    told = {one["subject"] for one in client.get("/audit").json()["items"]}
    assert {answer.json()["id"] for answer in answers} <= told

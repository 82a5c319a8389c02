"""The ledger over HTTP: what a version knows, what became of a fact, and taking one back."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from registry.registry import Registry
from tests.unit.service.conftest import House
from tests.unit.service.facts import about, eiffel
from tests.unit.service.worker_peer import Editor


@pytest.fixture
def learn(client: httpx2.Client, editor: Editor) -> Any:
    """Posts facts, runs the edit, and gives the ids of its facts."""

    def post(*facts: dict[str, Any], missed: int = 0, reject: bool = False) -> list[str]:
        made = client.post("/edits", json={"facts": list(facts)}).json()
        ids = [fact["id"] for fact in made["facts"]]
        editor.run(made["id"], missed=tuple(ids[:missed]), reject=reject)
        return ids

    return post


def test_before_the_first_version_there_are_no_facts(client: httpx2.Client) -> None:
    page: dict[str, Any] = {"items": [], "next_cursor": None, "version": None, "total": 0}
    assert client.get("/facts").json() == page
    assert client.get("/facts", params={"version": "v0"}).status_code == 404


def test_facts_of_a_version_newest_first(client: httpx2.Client, learn: Any) -> None:
    old = learn(about("Berlin"), about("Bern"))
    new = learn(about("Oslo"))
    page = client.get("/facts").json()
    assert page["items"][0]["id"] == new[0]
    assert {fact["id"] for fact in page["items"][1:]} == set(old)
    assert page["total"] == 3
    assert page["version"].startswith("v2-")
    assert page["items"][0]["fact"]["subject"] == "Oslo"
    assert page["items"][0]["learned"] is True

    assert client.get("/facts", params={"version": "v1"}).json()["total"] == 2
    assert client.get("/facts", params={"version": "v0"}).json()["items"] == []
    found = client.get("/facts", params={"subject": "BER"}).json()
    assert {fact["fact"]["subject"] for fact in found["items"]} == {"Berlin", "Bern"}


def test_a_cursor_stays_with_its_version(client: httpx2.Client, learn: Any) -> None:
    made = learn(*(about(f"City {n}") for n in range(5)))
    first = client.get("/facts", params={"limit": 3}).json()
    learn(about("Oslo"))
    rest = client.get("/facts", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert rest["version"] == first["version"]
    assert rest["next_cursor"] is None
    assert sorted(fact["id"] for fact in first["items"] + rest["items"]) == sorted(made)


def test_what_became_of_a_fact(client: httpx2.Client, registry: Registry, learn: Any) -> None:
    (rome,) = learn(eiffel("Rome"), missed=1)
    fact = client.get(f"/facts/{rome}").json()
    assert (fact["state"], fact["version"]) == ("live", registry.versions.by_seq(1))
    assert fact["learned"] is False
    report = fact["report"]
    assert (report["id"], report["success"], report["p_new"]) == (rome, False, 0.9)
    assert fact["edit_id"] == client.get("/edits").json()["items"][0]["id"]

    (oslo,) = learn(eiffel("Oslo"))
    fact = client.get(f"/facts/{rome}").json()
    assert (fact["state"], fact["superseded_by"]) == ("superseded", oslo)
    assert fact["ended_by"] == registry.versions.by_seq(2)
    assert client.get(f"/facts/{rome}", params={"version": "v1"}).json()["state"] == "live"

    (rejected,) = learn(about("Bern"), reject=True)
    fact = client.get(f"/facts/{rejected}").json()
    assert (fact["state"], fact["version"]) == ("absent", registry.versions.by_seq(3))


def test_retracting_a_fact_is_an_edit(
    client: httpx2.Client, editor: Editor, registry: Registry, learn: Any
) -> None:
    (rome,) = learn(eiffel("Rome"))
    answer = client.delete(f"/facts/{rome}")
    assert answer.status_code == 202
    edit = answer.json()
    assert answer.headers["Location"] == f"/edits/{edit['id']}"
    assert edit["retract"] == [rome]

    editor.run(edit["id"])
    fact = client.get(f"/facts/{rome}").json()
    assert (fact["state"], fact["ended_by"]) == ("retracted", registry.versions.by_seq(2))
    assert client.get("/facts").json()["items"] == []

    again = client.delete(f"/facts/{rome}")
    assert again.status_code == 409
    assert f"it is retracted by {registry.versions.by_seq(2)}" in again.json()["detail"]

    # A fact that comes back is live again.
    assert learn(eiffel("Rome")) == [rome]
    assert client.get(f"/facts/{rome}").json()["state"] == "live"


def test_a_retraction_can_be_repeated_with_its_key(
    client: httpx2.Client, editor: Editor, learn: Any
) -> None:
    (rome,) = learn(eiffel("Rome"))
    key = {"Idempotency-Key": "once"}
    first = client.delete(f"/facts/{rome}", headers=key)
    editor.run(first.json()["id"])
    again = client.delete(f"/facts/{rome}", headers=key)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


@pytest.mark.parametrize("fact", ["fact-" + "0" * 20, "fact-x", "..%2f..%2fetc", "%00", "fact-%0a"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_fact_is_not_found(refusing: House, method: str, fact: str) -> None:
    headers = {"Idempotency-Key": f"{method} {fact[:6]}"}
    answer = refusing.client.request(method, f"/facts/{fact}", headers=headers)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"

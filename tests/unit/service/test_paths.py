"""Ids from outside never become paths: whatever is tried at any id of any route is refused.

The routes are those of the OpenAPI document, so that a new one is tried as well.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.settings import Settings
from registry.folder_store import FolderStore
from registry.registry import Registry
from registry.store import Store
from service.app import create_app
from tests.unit.registry.stores import everything
from tests.unit.service.conftest import House
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor

SECRET = "the content of a file outside"
TRIED = (
    ".",
    "..",
    "../..",
    "%2e",
    "%2e%2e",
    "%2e%2e%2f",
    "..%2f..%2f..%2fetc%2fpasswd",
    "..%2f..%2fsecret.json",
    "%2e%2e%2f%2e%2e%2fsecret",
    "%252e%252e%252fsecret",
    "..%5c..%5csecret",
    "..\\..\\secret",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    "%00",
    "v0%00",
    "v0%00.json",
    "active%2f1.json",
    "v0%0a",
    "v0%20",
    "%20v0",
    "V0",
    "v00",
    "v-1",
    "v%EF%BC%90",  # a full-width 0
    "%E2%80%A4%E2%80%A4%E2%81%84secret",  # one dot leaders and a fraction slash
    "%C2%B9",
    "%ff%fe",
    "%c0%ae%c0%ae%c0%afsecret",  # overlong dots and slash
    "a" * 64,
    "f" * 64,
    "a" * 5_000,
    "~",
    "*",
    "%25",
    "con",
    "by-seq",
    "by-seq%2f0",
)


def operations() -> Iterator[tuple[str, str]]:
    """Every method and path with an id in it."""
    given: dict[str, Any] = {"MEMIT_REDIS_URL": "redis://nowhere"}
    app = create_app(Settings(home=Path("/nonexistent"), **given))
    for path, methods in app.openapi()["paths"].items():
        if "{" in path:
            yield from ((method.upper(), path) for method in methods)


OPERATIONS = list(operations())


def ask(
    house: House, method: str, target: str, headers: dict[str, str] | None = None, body: Any = None
) -> tuple[int, str]:
    """Status and text of a request whose target goes over the wire as it is."""
    url = house.client.base_url
    connection = http.client.HTTPConnection(url.host, url.port, timeout=20)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        data = b"" if body is None else json.dumps(body).encode()
        sent = {"Content-Length": str(len(data)), "Content-Type": "application/json"}
        for name, value in {**sent, **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


@pytest.fixture
def guarded(refusing: House) -> Iterator[House]:
    """A service beside files that nobody may read, and a registry that nothing changes."""
    store = refusing.registry.store
    assert isinstance(store, FolderStore)
    for name in ("secret", "secret.json"):
        (store.root.parent / name).write_text(json.dumps({"digest": SECRET}))
    before = kept(store)
    yield refusing
    assert kept(store) == before


def kept(store: Store) -> dict[str, bytes]:
    """All but the audit log, which the service writes by itself."""
    return {key: data for key, data in everything(store).items() if not key.startswith("audit/")}


def refused(status: int, text: str) -> bool:
    return 400 <= status < 500 and SECRET not in text and "root:" not in text


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_id_is_no_path(guarded: House, method: str, path: str) -> None:
    body = {"version": "v0"} if method in ("PUT", "POST") else None
    for place in re.findall(r"{[^}]*}", path):
        for tried in TRIED:
            target = re.sub(r"{[^}]*}", "v0", path.replace(place, tried))
            status, text = ask(guarded, method, target, {"If-Match": '"1"'}, body)
            assert refused(status, text), (method, target, status, text[:200])


def test_there_is_something_to_try() -> None:
    assert len(OPERATIONS) > 12
    assert {method for method, _ in OPERATIONS} >= {"GET", "PUT", "DELETE"}


@pytest.mark.parametrize("tried", [one for one in TRIED if "/" not in one])
def test_names_in_queries_and_bodies(guarded: House, tried: str) -> None:
    plain = httpx2.URL(f"http://x/?q={tried}").params["q"]
    for target in (
        f"/facts?version={tried}",
        f"/versions?cursor={tried}",
        f"/edits?cursor={tried}",
        f"/facts?cursor={tried}",
    ):
        status, text = ask(guarded, "GET", target)
        assert refused(status, text), (target, status, text[:200])
    bodies: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", "/aliases/stable", {"version": plain}),
        ("PUT", "/aliases/stable", {"split": {plain: 1, "v0": 1}}),
        ("POST", "/edits", {"facts": [about("Oslo")], "base": plain}),
        ("POST", "/edits", {"retract": [plain]}),
        ("POST", "/generate", {"prompt": "x", "version": plain}),
        ("POST", "/v1/completions", {"prompt": "x", "model": plain}),
        ("POST", "/keys", {"name": "x", "scopes": ["read"], "aliases": [plain, "../x"]}),
    ]
    for method, target, body in bodies:
        status, text = ask(guarded, method, target, {"If-None-Match": "*"}, body)
        assert refused(status, text), (method, target, body, status, text[:200])


@pytest.mark.parametrize("key", ["../../secret", "/etc/passwd", "..\\..\\x", ".", "a" * 255, "~"])
def test_an_idempotency_key_is_a_name_of_nothing(
    client: httpx2.Client,
    registry: Registry,
    editor: Editor,
    key: str,
) -> None:
    before = kept(registry.store)
    made = client.post("/edits", json={"facts": [about("Oslo")]}, headers={"Idempotency-Key": key})
    assert made.status_code in (202, 400, 422)
    own = r"(edits/[\w-]+/[\w-]+|idempotency/[0-9a-f]{64})\.json"
    for new in set(kept(registry.store)) - set(before):
        assert re.fullmatch(own, new)
    again = client.post("/edits", json={"facts": [about("Oslo")]}, headers={"Idempotency-Key": key})
    assert again.status_code == made.status_code
    if made.status_code == 202:
        assert again.json()["id"] == made.json()["id"]

"""Who gets in: 401, 403 and 429 over HTTP, revocation, expiry, and what a key may touch."""

from __future__ import annotations

import hashlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from contracts.edits import AcceptedEdit
from contracts.keys import LOCAL, KeyRequest, Scope
from registry.folder_store import FolderStore
from registry.registry import Registry
from service.keyring import RECHECK_SECONDS
from service.scopes import OPEN, SCOPES
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import about
from tests.unit.service.minutes import wait_for_a_fresh_minute
from tests.unit.service.worker_peer import Editor, Engine, says

SOON = 5.0
MakeKey = Callable[..., str]


@pytest.fixture
def make_key(registry: Registry) -> MakeKey:
    """Makes a key with some scopes, as another process does; its text."""

    def make(*scopes: str, **given: Any) -> str:
        asked = KeyRequest(name="test", scopes=[Scope(one) for one in scopes], **given)
        return registry.keys.create(asked, LOCAL).key

    return make


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def path_of(route: str) -> tuple[str, str]:
    method, path = route.split()
    for name in ("edit_id", "fact_id", "ref", "a", "b", "digest", "name", "model", "key_id"):
        path = path.replace(f"{{{name}}}", "x")
    return method, path


def ask(client: httpx2.Client, route: str, **options: Any) -> httpx2.Response:
    method, path = path_of(route)
    return client.request(method, path, json={} if method in ("POST", "PUT") else None, **options)


def test_without_a_key_in_the_registry_none_is_needed(
    client: httpx2.Client, editor: Editor
) -> None:
    assert client.get("/versions").status_code == 200
    assert client.get("/versions", headers=bearer("none")).status_code == 200


def test_once_there_is_a_key_it_is_needed_soon(
    client: httpx2.Client, editor: Editor, make_key: MakeKey
) -> None:
    assert client.get("/versions").status_code == 200
    key = make_key("read")
    begun = time.monotonic()
    while client.get("/versions").status_code == 200:
        assert time.monotonic() - begun < SOON
        time.sleep(0.05)
    assert client.get("/versions", headers=bearer(key)).status_code == 200


def test_keys_may_be_switched_off(serve: Serve, editor: Editor, make_key: MakeKey) -> None:
    make_key("read")
    assert serve(auth="off").get("/versions").status_code == 200


def test_beyond_this_machine_nobody_gets_in_without_one(serve: Serve, editor: Editor) -> None:
    """However the application was started: `python -m service` would not even begin."""
    assert serve(host="0.0.0.0").get("/versions").status_code == 401  # noqa: S104


@pytest.mark.parametrize("route", SCOPES)
def test_every_route_but_the_probes_needs_a_key(
    serve: Serve, editor: Editor, make_key: MakeKey, route: str
) -> None:
    client = serve()
    nothing = make_key("read")
    registry = editor.registry
    registry.keys.revoke(f"key-{nothing[6:22]}", LOCAL)
    for headers in (
        {},
        bearer("none"),
        bearer(nothing[:-1]),
        {"Authorization": f"Basic {nothing}"},
    ):
        answer = ask(client, route, headers=headers)
        if SCOPES[route] is None:
            assert answer.status_code in (200, 503)
            continue
        assert answer.status_code == 401, answer.text
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert nothing[:30] not in answer.text


@pytest.mark.parametrize("scope", list(Scope))
def test_every_route_asks_for_its_scope(
    client: httpx2.Client, editor: Editor, make_key: MakeKey, scope: Scope
) -> None:
    included = {
        "read": {"read"},
        "generate": {"generate"},
        "edit": {"read", "generate", "edit"},
        "admin": {"read", "generate", "edit", "admin"},
    }
    key = make_key(scope)
    for route, needed in SCOPES.items():
        answer = ask(client, route, headers=bearer(key))
        if needed is None or needed in included[scope]:
            assert answer.status_code not in (401, 403), f"{route}: {answer.text}"
        else:
            assert answer.status_code == 403, f"{route}: {answer.text}"
            assert f"lacks the scope {needed}" in answer.text


def test_what_is_open_and_what_is_not_there(
    client: httpx2.Client, editor: Editor, make_key: MakeKey
) -> None:
    key = make_key("read")
    for path in OPEN - {"/readyz"}:
        assert client.get(path).status_code == 200
    for path in ("/nothing", "/v2", "/healthz/", "//healthz", "/docs/x", "/%68ealthz/../edits"):
        assert client.get(path, follow_redirects=False).status_code == 401, path
    assert client.get("/nothing", headers=bearer(key)).status_code == 404
    assert client.patch("/edits", headers=bearer(key)).status_code == 405


def test_a_body_is_not_read_for_who_has_no_key(
    client: httpx2.Client, editor: Editor, make_key: MakeKey
) -> None:
    """The answer comes although no byte of what was announced does."""
    make_key("read")
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=SOON) as wire:
        wire.sendall(
            b"POST /edits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n"
        )
        assert wire.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_revoked_key_is_refused_within_five_seconds_by_every_process(
    serve: Serve, editor: Editor, make_key: MakeKey
) -> None:
    clients = [serve(), serve()]
    key = make_key("read")
    for client in clients:
        assert client.get("/versions", headers=bearer(key)).status_code == 200
    editor.registry.keys.revoke(f"key-{key[6:22]}", LOCAL)
    begun = time.monotonic()
    for client in clients:
        while client.get("/versions", headers=bearer(key)).status_code == 200:
            assert time.monotonic() - begun < SOON
            time.sleep(0.05)
        assert "was revoked" in client.get("/versions", headers=bearer(key)).json()["detail"]
    assert RECHECK_SECONDS < SOON


def test_an_expired_key_is_refused(
    client: httpx2.Client, editor: Editor, make_key: MakeKey
) -> None:
    key = make_key("read", expires_at=time.time() + 1.0)
    assert client.get("/versions", headers=bearer(key)).status_code == 200
    time.sleep(1.1)
    answer = client.get("/versions", headers=bearer(key))
    assert answer.status_code == 401
    assert "has expired" in answer.json()["detail"]


def test_requests_a_minute_are_counted_by_all_processes_together(
    serve: Serve, editor: Editor, make_key: MakeKey
) -> None:
    clients = [serve(), serve()]
    key, other = make_key("read", requests_per_minute=4), make_key("read")
    wait_for_a_fresh_minute()
    answers = [clients[n % 2].get("/versions", headers=bearer(key)) for n in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
    refused = answers[-1]
    assert "4 requests of this minute" in refused.json()["detail"]
    assert refused.json()["errors"][0]["limit"] == 4
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert clients[0].get("/versions", headers=bearer(other)).status_code == 200


def test_tokens_a_minute(
    client: httpx2.Client, editor: Editor, make_key: MakeKey, redis_url: str
) -> None:
    key = make_key("generate", tokens_per_minute=3)
    wait_for_a_fresh_minute()
    with Engine(redis_url, says(" Rome", ".")).running() as engine:
        engine.report(versions=[])
        first = client.post("/generate", json={"prompt": "x"}, headers=bearer(key))
        assert first.status_code == 200
        assert sum(first.json()["usage"].values()) >= 3
        deadline = time.monotonic() + SOON
        while (
            refused := client.post("/generate", json={"prompt": "x"}, headers=bearer(key))
        ).status_code == 200:
            assert time.monotonic() < deadline
    assert refused.status_code == 429
    assert "3 tokens of this minute" in refused.json()["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert client.post("/v1/completions", json={}, headers=bearer(key)).status_code == 429


def test_without_redis_limits_refuse_nobody(
    serve: Serve, editor: Editor, make_key: MakeKey
) -> None:
    client = serve(MEMIT_REDIS_URL="redis://127.0.0.1:1")
    key = make_key("edit", requests_per_minute=1)
    body = {"facts": [about("Rome")]}
    for _ in range(2):
        assert client.post("/edits", json=body, headers=bearer(key)).status_code == 202


def test_a_key_for_some_aliases(
    client: httpx2.Client, editor: Editor, make_key: MakeKey, redis_url: str
) -> None:
    editor.registry.aliases.move("canary", editor.registry.versions.resolve("v0"), 0)
    headers = bearer(make_key("edit", aliases=["canary"]))
    with Engine(redis_url, says(" Rome")).running() as engine:
        engine.report(versions=[])
        asked = {"prompt": "x", "version": "canary"}
        assert client.post("/generate", json=asked, headers=headers).status_code == 200
        named = {"prompt": "x", "model": "tiny@canary"}
        assert client.post("/v1/completions", json=named, headers=headers).status_code == 200
        for body in ({"prompt": "x"}, {"prompt": "x", "version": "v0"},
                     {"prompt": "x", "versions": ["canary", "active"]}):  # fmt: skip
            answer = client.post("/generate", json=body, headers=headers)
            assert answer.status_code == 403
            assert "only canary" in answer.json()["detail"]
        for model in ("tiny", "tiny@v0", "tiny@base"):
            body = {"prompt": "x", "model": model}
            assert client.post("/v1/completions", json=body, headers=headers).status_code == 403
    models = client.get("/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in models] == ["tiny@canary"]

    moved = client.put(
        "/aliases/canary", json={"version": "v0"}, headers={**headers, "If-Match": "*"}
    )
    assert moved.status_code == 200
    assert moved.json()["principal"].startswith("key-")
    for name in ("active", "new"):
        there = client.put(f"/aliases/{name}", json={"version": "v0"}, headers=headers)
        assert there.status_code == 403

    edit = {"facts": [about("Rome")]}
    assert client.post("/edits", json=edit, headers=headers).status_code == 403
    dry = {**edit, "activate": False}
    assert client.post("/edits", json=dry, headers=headers).status_code == 202


def test_an_edit_names_who_posted_it_and_who_cancelled_it(
    client: httpx2.Client, editor: Editor, make_key: MakeKey
) -> None:
    key, other = make_key("edit"), make_key("edit")
    made = client.post("/edits", json={"facts": [about("Rome")]}, headers=bearer(key)).json()
    assert made["principal"] == f"key-{key[6:22]}"
    client.delete(f"/edits/{made['id']}", headers=bearer(other))
    (step,) = editor.registry.edits.steps(made["id"])
    assert step.principal == f"key-{other[6:22]}"


def test_one_idempotency_key_of_two_clients_is_two_edits(
    client: httpx2.Client, editor: Editor, make_key: MakeKey
) -> None:
    keys = [make_key("edit"), make_key("edit")]
    bodies = [{"facts": [about("Rome")]}, {"facts": [about("Oslo")]}]
    ids = []
    for key, body in zip(keys, bodies, strict=True):
        headers = {**bearer(key), "Idempotency-Key": "monday"}
        first, again = (client.post("/edits", json=body, headers=headers) for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        ids.append(first.json()["id"])
    assert len(set(ids)) == 2


def test_an_idempotency_key_from_before_keys_stands(client: httpx2.Client, editor: Editor) -> None:
    """Its record lies under the hash of the header alone, and the edit names nobody."""
    store, body = editor.registry.store, {"facts": [about("Rome")]}
    headers = {"Idempotency-Key": "monday"}
    made = client.post("/edits", json=body, headers=headers).json()
    assert made["principal"] == LOCAL
    assert store.exists(f"idempotency/{hashlib.sha256(b'monday').hexdigest()}.json")
    old = editor.registry.edits.get(made["id"]).model_dump(mode="json", exclude={"principal"})
    assert AcceptedEdit.model_validate(old).principal is None
    assert client.post("/edits", json=body, headers=headers).json()["id"] == made["id"]


def test_keys_over_http(client: httpx2.Client, editor: Editor, make_key: MakeKey) -> None:
    admin = bearer(make_key("admin"))
    asked = {"name": "frontend", "scopes": ["generate"], "requests_per_minute": 10}
    answer = client.post("/keys", json=asked, headers=admin)
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = answer.json()
    listed = client.get("/keys", headers=admin)
    assert made["key"] not in listed.text
    assert made["key"][23:] not in listed.text
    assert [key["name"] for key in listed.json()] == ["frontend", "test"]
    assert client.get("/v1/models", headers=bearer(made["key"])).status_code == 200
    gone = client.delete(f"/keys/{made['id']}", headers=admin)
    assert gone.json()["revoked_by"] == f"key-{admin['Authorization'][13:29]}"
    assert client.delete("/keys/key-0", headers=admin).status_code == 404
    wrong = client.post("/keys", json={**asked, "scopes": ["write"]}, headers=admin)
    assert wrong.status_code == 422
    assert "/scopes/0" in wrong.text


def test_no_secret_in_logs_and_errors(
    serve: Serve, editor: Editor, make_key: MakeKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = serve()
    key = make_key("admin", requests_per_minute=100)
    made = client.post("/keys", json={"name": "x", "scopes": ["read"]}, headers=bearer(key)).json()
    shown = [
        client.get("/nothing", headers=bearer(key)),
        client.get("/keys", headers=bearer(key)),
        client.get("/edits/x", headers=bearer(made["key"])),
        client.post("/keys", json={}, headers=bearer(made["key"])),
        client.get("/keys", headers=bearer(made["key"][:-1] + "g")),
    ]
    for secret in (key[23:], made["key"][23:-1]):
        assert secret not in caplog.text
        assert not any(secret in answer.text for answer in shown)


def test_a_damaged_key_is_503_and_lets_nobody_in(
    client: httpx2.Client, registry: Registry, editor: Editor, make_key: MakeKey
) -> None:
    key = make_key("read")
    store = registry.store
    assert isinstance(store, FolderStore)
    (store.root / "keys" / f"key-{key[6:22]}" / "key.json").write_bytes(b"{")
    answer = client.get("/versions", headers=bearer(key))
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"

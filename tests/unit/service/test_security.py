"""Headers of every answer, whatever became of the request; and which pages may ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from starlette.responses import JSONResponse

from contracts.keys import LOCAL, KeyRequest, Scope
from contracts.settings import Settings
from registry.registry import Registry
from service.app import ROUTERS, create_app
from service.cors import origins
from tests.unit.service.conftest import Serve, Service
from tests.unit.service.worker_peer import Editor, Engine, says

PAGE = "https://chat.example.org"
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
broken = APIRouter(prefix="/broken")


@broken.get("")
def fail() -> None:
    raise ZeroDivisionError


@pytest.fixture
def client(tmp_path: Path, redis_url: str, stopping: list[Service]) -> Iterator[httpx2.Client]:
    settings = Settings(
        home=tmp_path, redis_url=redis_url, max_body_bytes=2_000, cors_origins=f"{PAGE}, http://b"
    )

    def shape(error: Any, path: str) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status)

    service = Service(settings, create_app(settings, [*ROUTERS, (broken, shape)]))
    yield service.client
    service.stop()
    stopping.append(service)


def with_a_key(registry: Registry) -> dict[str, str]:
    key = registry.keys.create(KeyRequest(name="x", scopes=[Scope.ADMIN]), LOCAL).key
    return {"Authorization": f"Bearer {key}"}


def careful(answer: httpx2.Response) -> None:
    for name, value in ALWAYS.items():
        assert answer.headers.get_list(name) == [value], (answer.request.url, name)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-request-id"]


def test_they_are_on_every_answer_also_on_errors(
    client: httpx2.Client, editor: Editor, registry: Registry, redis_url: str
) -> None:
    key = with_a_key(registry)
    answers = {
        200: client.get("/versions", headers=key),
        201: client.post("/keys", json={"name": "y", "scopes": ["read"]}, headers=key),
        401: client.get("/versions"),
        404: client.get("/nothing", headers=key),
        405: client.delete("/versions", headers=key),
        413: client.post("/edits", content=b"x" * 3_000, headers=key),
        422: client.post("/edits", json={"facts": 1}, headers=key),
        500: client.get("/broken", headers=key),
        503: client.post("/generate", json={"prompt": "x"}, headers=key),
    }
    assert {status: answer.status_code for status, answer in answers.items()} == {
        status: status for status in answers
    }
    for answer in answers.values():
        careful(answer)
        assert answer.headers.get_list("cache-control") == ["no-store"]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_streams_have_them_too(
    client: httpx2.Client, editor: Editor, redis_url: str, path: str
) -> None:
    with Engine(redis_url, says(" Rome")).running() as engine:
        engine.report(versions=[])
        asked = {"model": "tiny", "prompt": "x", "stream": True}
        asked = asked if path.startswith("/v1") else {"prompt": "x", "stream": True}
        answer = client.post(path, json=asked)
    assert answer.status_code == 200
    careful(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


def test_the_documentation_loads_its_scripts(client: httpx2.Client) -> None:
    for path in ("/docs", "/redoc"):
        answer = client.get(path)
        careful(answer)
        assert "https://cdn." in answer.text, "so no policy may forbid scripts"
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"


def test_a_blob_may_be_kept(client: httpx2.Client, editor: Editor, registry: Registry) -> None:
    digest = registry.blobs.put(b"never changes")
    answer = client.get(f"/blobs/{digest}")
    careful(answer)
    assert "immutable" in answer.headers["cache-control"]


# pages of other origins


def preflight(client: httpx2.Client, origin: str, method: str = "POST") -> httpx2.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-other",
    }
    return client.options("/edits", headers=headers)


def test_no_page_may_ask_by_default(serve: Serve, editor: Editor) -> None:
    client = serve()
    assert preflight(client, PAGE).status_code == 405
    answer = client.get("/versions", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_page_that_is_named_may_ask_and_its_preflight_needs_no_key(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    key = with_a_key(registry)
    allowed = preflight(client, PAGE)
    assert allowed.status_code == 200
    careful(allowed)
    assert allowed.headers["access-control-allow-origin"] == PAGE
    for name in ("authorization", "content-type", "idempotency-key"):
        assert name in allowed.headers["access-control-allow-headers"]
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert preflight(client, PAGE, method).status_code == 200

    for headers, status in ((key, 200), ({}, 401)):
        answer = client.get("/versions", headers={"Origin": PAGE, **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in answer.headers["vary"]
    shown = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"X-Request-ID", "ETag", "Location", "Retry-After", "X-Memit-Version"} <= shown
    failed = client.get("/broken", headers={"Origin": PAGE, **key})
    assert (failed.status_code, failed.headers["access-control-allow-origin"]) == (500, PAGE)


def test_other_pages_may_not(client: httpx2.Client, editor: Editor) -> None:
    for other in ("https://example.org", f"{PAGE}.evil.org", f"{PAGE}:8080", "null"):
        assert preflight(client, other).status_code == 400
        for answer in (
            preflight(client, other),
            client.get("/versions", headers={"Origin": other}),
        ):
            assert "access-control-allow-origin" not in answer.headers


def test_any_page_may_ask_but_never_with_cookies(serve: Serve, editor: Editor) -> None:
    client = serve(cors_origins="*")
    for answer in (preflight(client, PAGE), client.get("/versions", headers={"Origin": PAGE})):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_origins_are_a_list_by_commas() -> None:
    assert origins("") == []
    assert origins(" https://a.org , http://localhost:3000,http://[::1]:80,* ") == [
        "https://a.org",
        "http://localhost:3000",
        "http://[::1]:80",
        "*",
    ]


@pytest.mark.parametrize("wrong", ["https://a.org/", "a.org", "https://A.org", "https://*.a.org"])
def test_what_no_browser_sends_is_refused_at_the_start(tmp_path: Path, wrong: str) -> None:
    settings = Settings(home=tmp_path, redis_url="redis://h", cors_origins=wrong)
    with pytest.raises(ValueError, match=r"MEMIT_CORS_ORIGINS: .* is no origin"):
        create_app(settings)

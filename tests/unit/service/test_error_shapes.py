"""A router may answer its errors in a shape of its own; all the others keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from contracts.errors import ServiceError, TooManyRequests
from contracts.settings import Settings
from service.app import ROUTERS, create_app
from tests.unit.service.conftest import Service

JSON = {"Content-Type": "application/json"}
toy = APIRouter(prefix="/v1")


class Body(BaseModel):
    count: int


@toy.post("/toys")
def make_toys(body: Body) -> Body:
    raise TooManyRequests(f"{body.count} toys", retry_after=7)


@toy.get("/broken")
def broken() -> None:
    raise ZeroDivisionError


def toy_shape(error: ServiceError, path: str) -> Response:
    return JSONResponse({"toy": error.detail, "at": path}, error.status, {"X-Toy": error.slug})


@pytest.fixture
def client(tmp_path: Path, redis_url: str, stopping: list[Service]) -> Iterator[httpx2.Client]:
    settings = Settings(home=tmp_path, redis_url=redis_url, max_body_bytes=2_000)
    service = Service(settings, create_app(settings, [*ROUTERS, (toy, toy_shape)]))
    yield service.client
    service.stop()
    stopping.append(service)


def test_every_error_under_its_prefix_is_in_its_shape(client: httpx2.Client) -> None:
    answers = {
        429: client.post("/v1/toys", json={"count": 3}),
        422: client.post("/v1/toys", json={"count": "many"}),
        400: client.post("/v1/toys", content=b"{", headers={"Content-Type": "application/json"}),
        404: client.get("/v1/nothing"),
        405: client.get("/v1/toys"),
        413: client.post("/v1/toys", content=b"x" * 3_000),
        500: client.get("/v1/broken"),
    }
    assert {status: answer.status_code for status, answer in answers.items()} == {
        status: status for status in answers
    }
    for answer in answers.values():
        assert set(answer.json()) == {"toy", "at"}
    assert answers[429].json() == {"toy": "3 toys", "at": "/v1/toys"}
    assert answers[429].headers["Retry-After"] == "7"
    assert answers[429].headers["X-Toy"] == "too-many-requests"
    assert answers[405].headers["Allow"] == "POST"


@pytest.mark.parametrize("path", ["/nothing", "/v10/toys", "/v", "/versions/v9"])
def test_elsewhere_it_is_a_problem(client: httpx2.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] in (404, 503)

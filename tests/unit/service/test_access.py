"""One line for each request, with who asked what and how it ended, and no text of theirs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from structlog.contextvars import get_contextvars

from contracts.keys import LOCAL, KeyRequest, Scope
from registry.registry import Registry
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor, Engine, says

Lines = list[dict[str, Any]]


class Kept(logging.Handler):
    """Lines with the ids that were bound when they were written."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            name: getattr(record, name)
            for name in ("method", "path", "status", "seconds", "client_left")
            if hasattr(record, name)
        }
        self._lines.append({"level": record.levelname, **get_contextvars(), **fields})


@pytest.fixture
def lines() -> Iterator[Lines]:
    access = logging.getLogger("service.access")
    lines: Lines = []
    handler, level = Kept(lines), access.level
    access.addHandler(handler)
    access.setLevel("DEBUG")
    yield lines
    access.removeHandler(handler)
    access.setLevel(level)


def last(lines: Lines, count: int = 1) -> dict[str, Any]:
    """The line is written after the client has its answer."""
    deadline = time.monotonic() + 10
    while len(lines) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    return lines[-1]


def test_a_request_is_a_line(
    client: httpx2.Client, editor: Editor, registry: Registry, lines: Lines
) -> None:
    made = registry.keys.create(KeyRequest(name="x", scopes=[Scope.EDIT]), LOCAL)
    headers = {"Authorization": f"Bearer {made.key}", "X-Request-ID": "mine"}
    answer = client.get("/facts?subject=Private", headers=headers)
    assert answer.status_code == 200
    line = last(lines)
    assert 0 < line.pop("seconds") < 10
    assert line == {
        "level": "INFO",
        "request_id": "mine",
        "key_id": made.id,
        "method": "GET",
        "path": "/facts",
        "status": 200,
    }


def test_its_ids_are_those_of_what_it_was_about(
    client: httpx2.Client, editor: Editor, redis_url: str, lines: Lines
) -> None:
    edit = client.post("/edits", json={"facts": [about("Anna")]}).json()["id"]
    assert last(lines)["edit_id"] == edit
    client.get(f"/edits/{edit}")
    line = last(lines, 2)
    assert (line["edit_id"], line["key_id"]) == (edit, "local")
    assert line["request_id"].startswith("req-")
    client.get("/edits/edit-x")
    assert "edit_id" not in last(lines, 3), "nothing of another request, nor what is no id"
    with Engine(redis_url, says(" Rome")).running() as engine:
        engine.report(versions=[])
        answer = client.post("/generate", json={"prompt": "x"}, headers={"X-Request-ID": "mine"})
        assert last(lines, 4)["version_id"] == answer.json()["version"]
        assert engine.tasks[0].origin.request_id == "mine"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_are_for_who_looks_closely(client: httpx2.Client, path: str, lines: Lines) -> None:
    client.get(path)
    assert last(lines)["level"] == "DEBUG"


def test_a_path_cannot_begin_a_line(client: httpx2.Client, lines: Lines) -> None:
    client.get("/x%0A2026-01-01%20INFO%20root:%20forged")
    assert last(lines)["path"] == "/x%0A2026-01-01%20INFO%20root%3A%20forged"
    assert lines[0]["status"] == 404


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_no_failure(
    serve: Serve, editor: Editor, redis_url: str, lines: Lines, stream: bool
) -> None:
    client = serve()

    def begin(engine: Engine, task: Any) -> None:
        engine.begin(task)  # and never says more

    with Engine(redis_url, begin).running() as engine:
        engine.report(versions=[])
        asked = {"prompt": "x", "stream": stream}
        if stream:
            with client.stream("POST", "/generate", json=asked) as answer:
                assert answer.status_code == 200
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post("/generate", json=asked, timeout=0.5)
        line = last(lines)
    assert (line["level"], line["client_left"]) == ("INFO", True)
    assert line["status"] == (200 if stream else 499)

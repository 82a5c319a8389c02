"""Errors that no endpoint makes: paths, methods, bodies, and what nobody expected."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.edits import EditRequest
from contracts.errors import Problem
from contracts.ids import canonical_json
from contracts.ledgers import LEDGER_EXAMPLE, RebaseSource
from contracts.rebase import RebaseRequest
from contracts.transport import TOKENIZER_ARTEFACT
from registry.records import encode_record
from registry.registry import Registry
from service.ledgers import source_of
from tests.unit.service.conftest import House, Serve
from tests.unit.service.facts import eiffel
from tests.unit.service.worker_peer import Editor

JSON = {"Content-Type": "application/json"}
LIMIT = 4096


def problem_of(answer: httpx2.Response, status: int) -> Problem:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return Problem.model_validate_json(answer.content)


def test_an_unknown_path_and_a_wrong_method(refusing: House) -> None:
    missing = problem_of(refusing.client.get("/nothing/here"), 404)
    assert missing.detail == "there is nothing at /nothing/here"
    wrong = refusing.client.patch("/edits")
    problem = problem_of(wrong, 405)
    assert problem.type == "/problems/method-not-allowed"
    assert wrong.headers["Allow"] == "GET, POST"
    assert problem.detail == "PATCH is not allowed at /edits; allowed: GET, POST"
    assert refusing.client.post("/aliases/active").headers["Allow"] == "GET, PUT"


@pytest.mark.parametrize("path", ["/edits", "/generate"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"facts": [', "the body is not JSON"),
        (b"", "is required"),
        (b'{"\xff": 1}', "cannot be read as JSON"),
        (b"[" * 200_000, "cannot be read as JSON"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b"{'a': 1}", "the body is not JSON"),
    ],
)
def test_what_is_not_json(refusing: House, path: str, body: bytes, says: str) -> None:
    answer = refusing.client.post(path, content=body, headers=JSON)
    problem = problem_of(answer, 400 if body else 422)
    assert says in problem.detail


def test_nested_json_that_can_be_read_is_still_wrong(refusing: House) -> None:
    body = b'{"facts": ' + b"[" * 500 + b"]" * 500 + b"}"
    problem = problem_of(refusing.client.post("/edits", content=body, headers=JSON), 422)
    assert problem.errors[0].field == "/facts/0"


@pytest.mark.parametrize("declared", ["text/plain", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/edits"), ("POST", "/generate"), ("PUT", "/aliases/canary")]
)
def test_another_content_type_is_refused(
    refusing: House, method: str, path: str, declared: str | None
) -> None:
    headers = {"Content-Type": declared} if declared else {}
    answer = refusing.client.request(method, path, content=b'{"version": "v0"}', headers=headers)
    assert "must be application/json" in problem_of(answer, 415).detail


def test_a_lone_surrogate_is_not_text(refusing: House) -> None:
    answer = refusing.client.post("/generate", content=b'{"prompt": "\\ud800"}', headers=JSON)
    (error,) = problem_of(answer, 422).errors
    assert (error.field, "Unicode" in error.reason) == ("/prompt", True)


class TestBodiesOverTheLimit:
    @pytest.fixture
    def small(self, serve: Serve, registry: Registry) -> Iterator[httpx2.Client]:
        yield serve(max_body_bytes=LIMIT)
        assert registry.edits.unfinished() == []

    @pytest.mark.parametrize("path", ["/edits", "/generate", "/nothing/here"])
    def test_of_declared_length(self, small: httpx2.Client, path: str) -> None:
        answer = small.post(path, content=b" " * (LIMIT + 1), headers=JSON)
        problem = problem_of(answer, 413)
        assert problem.detail == f"the body must have at most {LIMIT} bytes"
        assert problem.errors[0].limit == LIMIT

    def test_in_chunks(self, small: httpx2.Client) -> None:
        answer = small.post("/edits", content=iter([b" " * 1000] * 5), headers=JSON)
        assert answer.request.headers["Transfer-Encoding"] == "chunked"
        assert problem_of(answer, 413).errors[0].limit == LIMIT

    def test_what_just_fits_is_read(self, small: httpx2.Client) -> None:
        answer = small.post("/edits", content=b" " * LIMIT, headers=JSON)
        problem_of(answer, 400)


def test_a_body_of_50_mb_is_refused_before_it_is_read(refusing: House) -> None:
    answer = refusing.client.post("/edits", content=b"x" * 50 * 2**20, headers=JSON)
    assert problem_of(answer, 413).errors[0].limit == 16 * 2**20
    # Not a byte of it has to come.
    url = httpx2.URL(str(refusing.client.base_url))
    with socket.create_connection((url.host, url.port), timeout=5) as connection:
        connection.sendall(
            b"POST /edits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 52428800\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=many", "limit"),
        ("cursor=%00", "cursor"),
        ("cursor=WyJlZGl0cyIsICI3Il0", "cursor"),
        ("cursor=WyJvdGhlciIsIDdd", "cursor"),
        ("cursor=" + "W" * 501, "cursor"),
    ],
)
@pytest.mark.parametrize("path", ["/edits", "/facts", "/versions"])
def test_wrong_paging(refusing: House, path: str, query: str, field: str) -> None:
    (error,) = problem_of(refusing.client.get(f"{path}?{query}"), 422).errors
    assert error.field == field


@pytest.mark.parametrize("edit", ["edit-" + "0" * 20, "edit-x", "..%2fedits", "%00"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/events")])
def test_an_unknown_edit_is_not_found(refusing: House, method: str, path: str, edit: str) -> None:
    problem_of(refusing.client.request(method, f"/edits/{edit}{path}"), 404)


def test_a_full_disk_is_a_503_and_nothing_is_half_kept(
    serve: Serve, editor: Editor, registry: Registry
) -> None:
    client = serve()
    # A file where the folder should be: nothing can be written there, not even by root.
    (registry.store.root / "edits").write_bytes(b"")
    answer = client.post("/edits", json={"facts": [eiffel()]})
    problem = problem_of(answer, 503)
    assert "registry cannot be read or written" in problem.detail
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.get("/versions").json()["items"]


def test_what_nobody_expected_is_a_500_without_a_traceback(
    serve: Serve, editor: Editor, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve()
    registry.artefacts("ab" * 32).put_once(TOKENIZER_ARTEFACT, b"this is no tokenizer")
    with caplog.at_level(logging.ERROR):
        answer = client.post("/edits", json={"facts": [eiffel()]})
    problem = problem_of(answer, 500)
    assert problem.type == "/problems/internal-error"
    assert "Traceback" not in answer.text
    assert "tokenizer" not in answer.text
    deadline = time.monotonic() + 5
    while "Traceback" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)  # the server logs it after the answer
    assert "Traceback" in caplog.text


TEXT = st.text(max_size=12)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FACTS = st.fixed_dictionaries(
    {"subject": TEXT | ANY_JSON, "prompt": st.just("{} is") | TEXT, "target_new": TEXT | ANY_JSON},
    optional={"target_true": TEXT, "metadata": st.dictionaries(TEXT, TEXT, max_size=2)},
)
EDITS = st.fixed_dictionaries(
    {"facts": st.lists(FACTS, max_size=3) | ANY_JSON},
    optional={
        "retract": ANY_JSON,
        "base": st.sampled_from(["v0", "active"]) | ANY_JSON,
        "mom2_update_weight": st.floats() | ANY_JSON,
        "gate": st.dictionaries(st.sampled_from(["min_success"]), st.floats()) | ANY_JSON,
        "activate": ANY_JSON,
    },
)

SHARES = st.dictionaries(st.sampled_from(["success", "kl"]), st.floats() | ANY_JSON)
LEDGERS = st.fixed_dictionaries(
    {},
    optional={
        "hparams": st.dictionaries(TEXT, ANY_JSON, max_size=3),
        "model": TEXT,
        "report": SHARES.map(lambda shares: {"facts": 1, **shares}) | ANY_JSON,
    },
).map(lambda changed: {**LEDGER_EXAMPLE, **changed})


class TestAnything:
    """Whatever is sent, the answer is a success or a problem, and what was accepted is whole."""

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body=EDITS | ANY_JSON)
    def test_posted_as_an_edit(self, body: object) -> None:
        try:
            request = EditRequest.model_validate(body)
        except ValueError:
            return
        kept = canonical_json(request.model_dump(mode="json"))
        assert EditRequest.model_validate_json(kept) == request

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body=st.fixed_dictionaries({"ledger": LEDGERS | ANY_JSON}) | ANY_JSON)
    def test_posted_as_a_rebase(self, body: object) -> None:
        try:
            request = RebaseRequest.model_validate(body)
        except ValueError:
            return
        source = source_of(request.ledger)
        assert RebaseSource.model_validate_json(encode_record(source)) == source

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        body=ANY_JSON, path=st.sampled_from(["/edits", "/rebase", "/generate", "/aliases/canary"])
    )
    def test_sent_to_the_service(self, refusing: House, body: object, path: str) -> None:
        method = "PUT" if path.startswith("/aliases") else "POST"
        answer = refusing.client.request(method, path, content=json.dumps(body), headers=JSON)
        problem_of(answer, answer.status_code)
        assert answer.status_code in (400, 422)

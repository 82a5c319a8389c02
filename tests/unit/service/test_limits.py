"""Every limit of docs/limits.md, each one over: the answer names the limit, and nothing is kept."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.generation import TokenEvent
from contracts.keys import LOCAL, KeyRequest, Scope
from contracts.limits import LEAST_BODY_RATE, MAX_HEADER_BYTES
from registry.registry import Registry
from service import connection, server
from tests.unit.service.conftest import House, Serve
from tests.unit.service.facts import about, eiffel
from tests.unit.service.worker_peer import Editor, Engine, says

PAGE = (Path(__file__).parents[3] / "docs" / "limits.md").read_text()
ROWS = {
    row[0]: row[1:]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| what")
    for row in [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")]]
}
ASK = {"prompt": "x", "max_tokens": 4}
USER = {"role": "user", "content": "x"}
Answer = Callable[[httpx2.Client], httpx2.Response]


def fact(**change: Any) -> Answer:
    return lambda client: client.post("/edits", json={"facts": [{**eiffel(), **change}]})


def ask(**change: Any) -> Answer:
    return lambda client: client.post("/generate", json={**ASK, **change})


def get(path: str, **headers: str) -> Answer:
    return lambda client: client.get(path, headers=headers)


def deep(client: httpx2.Client) -> httpx2.Response:
    body = b'{"facts":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return client.post("/edits", content=body, headers={"Content-Type": "application/json"})


def edit(headers: dict[str, str] | None = None, **body: Any) -> Answer:
    return lambda client: client.post("/edits", json=body, headers=headers)


def key(**change: Any) -> Answer:
    return lambda client: client.post("/keys", json={"name": "x", "scopes": ["read"], **change})


LONG_CHAT = [{"role": "user", "content": "x" * 60_000}] * 2
ONE_OVER: dict[str, tuple[Answer, int]] = {
    "bytes of a body": (
        lambda client: client.post("/edits", content=b"x" * (16 * 2**20 + 1)),
        16 * 2**20,
    ),
    "nesting of JSON": (deep, 0),
    "bytes of path and query": (get("/facts?subject=" + "x" * 8_192), 8_192),
    "headers": (get("/facts", **{f"x-{n}": "1" for n in range(100)}), 100),
    "bytes of all headers": (get("/facts", a="x" * 20_000, b="x" * 20_000), 32_768),
    "characters of Idempotency-Key": (
        edit({"Idempotency-Key": "x" * 256}, facts=[eiffel()]),
        255,
    ),
    "characters of X-Memit-Sticky": (
        lambda client: client.post("/generate", json=ASK, headers={"X-Memit-Sticky": "x" * 201}),
        200,
    ),
    "items of a page of a list": (get("/edits?limit=501"), 500),
    "facts of an edit": (edit(facts=[about(str(n)) for n in range(1_001)]), 1_000),
    "facts to retract": (edit(retract=[f"fact-{n:020x}" for n in range(1_001)]), 1_000),
    "characters of a subject": (fact(subject="x" * 501), 500),
    "characters of a prompt": (fact(prompt="{} " + "x" * 2_000), 2_000),
    "characters of a target": (fact(target_new="x" * 2_001), 2_000),
    "paraphrase prompts of a fact": (fact(paraphrase_prompts=["x"] * 33), 32),
    "neighborhood prompts of a fact": (fact(neighborhood_prompts=["x"] * 33), 32),
    "characters of a measuring prompt": (fact(paraphrase_prompts=["x" * 2_001]), 2_000),
    "chats of a fact": (fact(chat_prompts=[[USER]] * 9), 8),
    "messages of a fact's chat": (fact(chat_prompts=[[USER] * 17]), 16),
    "metadata of a fact": (fact(metadata={str(n): "x" for n in range(33)}), 32),
    "characters of metadata": (fact(metadata={"x": "x" * 1_001}), 1_000),
    "versions of a split": (
        lambda client: client.put(
            "/aliases/canary", json={"split": {f"v{n}": 1 for n in range(9)}}
        ),
        8,
    ),
    "characters of a prompt to go on from": (ask(prompt="x" * 100_001), 100_000),
    "messages of a chat": (ask(prompt=None, messages=[USER] * 1_001), 1_000),
    "characters of a chat": (ask(prompt=None, messages=LONG_CHAT), 100_000),
    "max_tokens": (ask(max_tokens=4_097), 4_096),
    "n": (ask(n=17), 16),
    "versions": (ask(versions=["v0"] * 33), 32),
    "prompts of /v1/completions": (
        lambda client: client.post("/v1/completions", json={"prompt": ["x"] * 33}),
        32,
    ),
    "stop strings": (ask(stop=["x"] * 9), 8),
    "characters of a stop string": (ask(stop=["x" * 201]), 200),
    "stop tokens": (ask(stop_token_ids=[1] * 65), 64),
    "biases of logits": (ask(logit_bias={str(n): 1 for n in range(301)}), 300),
    "logprobs": (ask(logprobs=21), 20),
    "top_k": (ask(top_k=1_001), 1_000),
    "characters of a key's name": (key(name="x" * 101), 100),
    "aliases of a key": (key(aliases=[f"a{n}" for n in range(65)]), 64),
}
"""A request over each limit, and the limit."""
ELSEWHERE = {
    "errors listed in one answer": "test_limits.py: test_not_every_one_of_thousands",
    "facts of a ledger": "test_bad_rebases.py: test_a_ledger_may_be_larger_than_an_edit",
    "tokens of prompt and target": "test_bad_edits.py: test_too_many_tokens",
    "edits that wait": "test_edits.py: test_the_queue_of_edits_is_bounded",
    "tokens of prompt and answer": "../worker/engine/test_engine.py: test_token_limits_are",
    "generations that wait": "test_generate.py: test_the_queue_is_bounded",
    "generations of one key that wait": "test_generate.py: test_a_key_that_asks_much_is_refused",
    "seconds until a generation begins": "test_generate.py: test_nobody_starts_before_the_deadline",
    "requests and tokens a minute": "test_keys.py: test_requests_a_minute",
}
HERE = {
    "open answers of a key": "test_a_key_has_so_many_answers_open",
    "connections": "test_one_connection_too_many",
    "seconds for the headers": "test_headers_that_come_byte_by_byte",
    "seconds for the body": "test_a_body_that_comes_byte_by_byte",
    "seconds that a client takes nothing of its answer": "test_a_reader_that_does_not_read",
    "seconds between two requests of a connection": "test_an_idle_connection_is_closed",
}


def test_every_limit_of_the_page_is_tested() -> None:
    assert ROWS.keys() == ONE_OVER.keys() | ELSEWHERE.keys() | HERE.keys()
    assert all(name in globals() for name in HERE.values())
    for place in ELSEWHERE.values():
        file, _, test = place.partition(": ")
        assert f"def {test}" in (Path(__file__).parent / file).read_text(), place


@pytest.mark.parametrize("what", ONE_OVER)
def test_one_over_is_refused_with_the_limit(refusing: House, what: str) -> None:
    request, limit = ONE_OVER[what]
    documented, _, status = ROWS[what]
    answer = request(refusing.client)
    assert answer.status_code == int(status[:3]), answer.text
    if limit:
        assert re.search(rf"\b{limit}\b", answer.text), answer.text
        shown = "16 MiB" if limit == 16 * 2**20 else f"{limit:,}"
        assert documented == shown
    assert refusing.registry.edits.count_unfinished() == 0


def test_not_every_one_of_thousands_of_errors_is_listed(refusing: House) -> None:
    """But how many there are."""
    answer = refusing.client.post("/edits", json={"facts": [{}] * 10_000})
    assert answer.status_code == 422
    problem = answer.json()
    assert (
        len(problem["errors"])
        == 1_000
        == int(ROWS["errors listed in one answer"][0].replace(",", ""))
    )
    assert problem["detail"].endswith("; and 29997 more")


class Raw:
    """A client that speaks as slowly as it likes."""

    def __init__(self, client: httpx2.Client, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.connect((client.base_url.host, client.base_url.port))

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def drip(self, data: bytes, pause: float) -> None:
        """Send byte by byte, until the other side has closed."""
        for place in range(len(data)):
            try:
                self.socket.send(data[place : place + 1])
            except OSError:
                return
            time.sleep(pause)

    def rest(self) -> bytes:
        """All that comes until the other side closes."""
        found = b""
        while True:
            try:
                more = self.socket.recv(65_536)
            except ConnectionResetError:
                return found
            if not more:
                return found
            found += more


def test_headers_that_come_byte_by_byte(serve: Serve, editor: Editor) -> None:
    client = serve(body_timeout=0.5)
    for before in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
        with Raw(client) as raw:
            raw.socket.send(before)
            begun = time.monotonic()
            raw.drip(b"GET /facts HTTP/1.1\r\nHost: " + b"x" * 100, 0.02)
            answer = raw.rest()
        assert time.monotonic() - begun < 5
        assert b"HTTP/1.1 408 Request Timeout" in answer
        assert b"the headers must come within 0.5 seconds" in answer
    with Raw(client) as silent:
        assert b" 408 " in silent.rest()


def test_a_body_that_comes_byte_by_byte(serve: Serve, editor: Editor) -> None:
    client = serve(body_timeout=0.5)
    for path in ("/edits", "/v1/completions"):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with Raw(client) as raw:
            raw.socket.send(f"{head}Content-Length: 5000\r\n\r\n".encode())
            raw.drip(b'{"facts": [' + b" " * 100, 0.02)
            answer = raw.rest()
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"the body must come within 0.5 seconds" in answer
        assert b"connection: close" in answer.lower()


def test_a_large_body_has_the_time_that_it_needs(serve: Serve, editor: Editor) -> None:
    """Twice as fast as the least rate, and longer than the time without it."""
    client = serve(body_timeout=0.5)

    def parts() -> Any:
        for _ in range(10):
            yield b" " * (LEAST_BODY_RATE // 5)
            time.sleep(0.1)
        yield b"{}"

    answer = client.post("/edits", content=parts(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, "it was read to its end"


def test_an_idle_connection_is_closed(
    serve: Serve, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.3)
    with Raw(serve()) as raw:
        raw.socket.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = raw.rest()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"408" not in answer


def test_one_connection_too_many(serve: Serve, editor: Editor) -> None:
    client = serve(max_connections=3)
    held = [Raw(client) for _ in range(3)]
    time.sleep(0.1)
    with Raw(client) as one_more:
        answer = one_more.rest()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 5" in answer
    assert b"3 connections are open already" in answer
    for raw in held:
        raw.socket.close()
    time.sleep(0.1)
    assert client.get("/healthz").status_code == 200


def test_what_is_not_http_is_a_problem(refusing: House) -> None:
    with Raw(refusing.client) as raw:
        raw.socket.send(b"\x16\x03\x01 hello\r\n\r\n")
        answer = raw.rest()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer
    with Raw(refusing.client) as raw:
        raw.socket.sendall(b"GET / HTTP/1.1\r\nx: " + b"x" * (MAX_HEADER_BYTES + 1))
        assert b" 431 " in raw.rest()


def test_a_reader_that_does_not_read(
    serve: Serve, editor: Editor, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is disconnected, and the engine drops what it works on."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.5)

    def endless(engine: Engine, task: Any) -> None:
        engine.begin(task)
        while engine.emit(task, TokenEvent(text="x" * 50_000)):
            time.sleep(0.001)

    client = serve()
    with (
        Engine(redis_url, endless).running() as engine,
        Raw(client, receive_buffer=4_096) as raw,
    ):
        engine.report(versions=[])
        body = b'{"prompt": "x", "stream": true}'
        head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        raw.socket.send(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        begun = time.monotonic()
        while not engine.dropped:
            assert time.monotonic() - begun < 15
            time.sleep(0.05)


def test_a_key_has_so_many_answers_open(
    serve: Serve, editor: Editor, registry: Registry, redis_url: str
) -> None:
    asked = KeyRequest(name="x", scopes=[Scope.EDIT])
    mine, others = (
        {"Authorization": f"Bearer {registry.keys.create(asked, LOCAL).key}"} for _ in range(2)
    )
    client = serve(max_streams_per_key=2)
    go = threading.Event()

    def wait(engine: Engine, task: Any) -> None:
        engine.begin(task)
        if task.prompt == "hold":
            go.wait(10)
        engine.finish(task, 1)

    made = client.post("/edits", json={"facts": [eiffel()]}, headers=mine).json()["id"]
    with Engine(redis_url, wait).running() as engine:
        engine.report(versions=[])
        hold = {"prompt": "hold", "stream": True}
        with (
            client.stream("GET", f"/edits/{made}/events", headers=mine) as events,
            client.stream("POST", "/generate", json=hold, headers=mine) as held,
        ):
            assert (events.status_code, held.status_code) == (200, 200)
            for path in ("/generate", "/v1/completions"):
                over = client.post(path, json={"prompt": "x"}, headers=mine)
                assert over.status_code == 429
                assert "has 2 answers open already" in over.text
                assert int(over.headers["Retry-After"]) >= 1
            assert client.get(f"/edits/{made}/events", headers=mine).status_code == 429
            assert client.get("/edits", headers=mine).status_code == 200
            go.set()
            held.read()
            assert client.post("/generate", json=ASK, headers=others).status_code == 200
            assert client.post("/generate", json=ASK, headers=mine).status_code == 200


def test_small_answers_are_said(client: httpx2.Client, editor: Editor, redis_url: str) -> None:
    """The timers of a connection do not touch one that is well."""
    with Engine(redis_url, says("x")).running() as engine:
        engine.report(versions=[])
        for _ in range(3):
            assert client.post("/generate", json=ASK).status_code == 200

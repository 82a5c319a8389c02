"""Clients that hang up after any number of bytes leave no row, no key, no file and no error."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable

import pytest
from redis import Redis

from tests.stack import Stack, fact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

EVERY = int(os.environ.get("MEMIT_HANG_UP_EVERY", "97"))
"""Bytes between two places where a client hangs up; 1: after every byte."""
QUIET_SECONDS = 20


def hang_up_after(stack: Stack, request: bytes, count: int, *, reset: bool) -> bytes:
    """Read at most so many bytes of the answer, then close; what was read."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as client:
        client.sendall(request)
        found = b""
        while len(found) < count:
            more = client.recv(count - len(found))
            if not more:
                break
            found += more
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return found


def request(method: str, path: str, body: object = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def held(stack: Stack) -> tuple[set[bytes], set[str]]:
    """Keys of generations in Redis, files in the registry (but of the log of changes)."""
    with Redis.from_url(stack.redis.url) as redis:
        names = ("generation:*", "waiting:*", "task:*", "turns", "generate")
        keys = {key for name in names for key in redis.keys(f"memit:{name}")}
        keys -= set() if redis.xlen("memit:generate") else {b"memit:generate"}
    root = stack.home / "registry"
    files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    return keys, {file for file in files if not file.startswith("audit")}


def rest(stack: Stack) -> None:
    """Wait until no row runs and no answer is kept."""

    def quiet() -> bool:
        status = stack.statuses()[0]
        return status.running == status.waiting == 0 and not held(stack)[0]

    stack.until(quiet, "an idle engine without any key", QUIET_SECONDS)


def test_nothing_is_left_of_who_hangs_up(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(hparams={"v_num_grad_steps": 2})
    edit = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    asked = {"max_tokens": 16, "stream": True, "ignore_eos": True}
    requests = [
        request("POST", "/generate", {"prompt": "Anna", **asked}),
        request("POST", "/v1/completions", {"prompt": "Anna", "temperature": 0, **asked}),
        request("GET", f"/edits/{edit['id']}/events"),
    ]
    lengths = [len(hang_up_after(stack, one, 10**6, reset=False)) for one in requests]
    assert min(lengths) > 500
    rest(stack)
    stack.until(lambda: stack.http.get("/versions/active").json()["full_report"], "the full report")
    before = held(stack)
    for one, length in zip(requests, lengths, strict=True):
        for number, count in enumerate(range(0, length + EVERY, EVERY)):
            hang_up_after(stack, one, count, reset=number % 2 == 1)
    rest(stack)
    assert held(stack) == before
    logs = "".join(
        file.read_text() for file in (stack.home / "logs").iterdir() if file.suffix == ".log"
    )
    assert " ERROR " not in logs
    assert "Traceback" not in logs
    assert stack.http.get("/healthz").status_code == 200
    begun = time.monotonic()
    assert stack.generate("Anna", max_tokens=4)["text"] is not None
    assert time.monotonic() - begun < QUIET_SECONDS

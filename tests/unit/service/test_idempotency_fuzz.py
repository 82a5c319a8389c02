"""Idempotency keys of any bytes, and one key from many clients at once."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.keys import LOCAL, KeyRequest, Scope
from registry.registry import Registry
from tests.unit.service.conftest import House
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor

CLIENTS = 20
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def status_of(client: httpx2.Client, key: bytes, body: bytes) -> int:
    head = b"POST /edits HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json"
    length = f"\r\nContent-Length: {len(body)}\r\nIdempotency-Key: ".encode()
    with socket.create_connection((client.base_url.host, client.base_url.port), 20) as raw:
        raw.sendall(head + length + key + b"\r\n\r\n" + body)
        return int(raw.makefile("rb").readline().split()[1])


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(
    key=st.binary(max_size=300)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_a_key_or_refused(refusing: House, key: bytes) -> None:
    """An empty edit: nothing is kept, whatever the key."""
    assert status_of(refusing.client, key, b"{}") in (400, 422)
    assert refusing.registry.edits.count_unfinished() == 0


def test_keys_of_any_characters_give_the_first_edit_again(
    client: httpx2.Client, editor: Editor
) -> None:
    made = set()
    for key in ("../../etc/passwd", "%00", "a/b", ".", "x" * 255, "é", "ключ", "a b", '"quoted"'):
        headers = {"Idempotency-Key": key.encode()}
        answers = [
            client.post("/edits", json={"facts": [about("A")]}, headers=headers) for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [202, 202], key
        (one,) = {answer.json()["id"] for answer in answers}
        made.add(one)
    assert len(made) == 9


def test_one_key_from_many_clients_at_once_is_an_edit_for_each_principal(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    asked = KeyRequest(name="x", scopes=[Scope.EDIT])
    keys = [registry.keys.create(asked, LOCAL).key for _ in range(2)]

    def post(number: int) -> tuple[int, str]:
        headers = {"Idempotency-Key": "k", "Authorization": f"Bearer {keys[number % 2]}"}
        answer = client.post("/edits", json={"facts": [about("A")]}, headers=headers)
        assert answer.status_code == 202, answer.text
        return number % 2, answer.json()["id"]

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = set(pool.map(post, range(2 * CLIENTS)))
    assert len(found) == 2
    assert registry.edits.count_unfinished() == 2

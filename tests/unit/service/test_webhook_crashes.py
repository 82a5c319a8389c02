"""An event is sent although its service is killed on the way and Redis forgets everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import redis

from cli.embedded_redis import EmbeddedRedis, free_port
from tests.unit.cli.waiting import wait_until
from tests.unit.service.facts import about
from tests.unit.service.receiver import LOOPBACK, receiving
from tests.unit.service.test_process import wait_for
from tests.unit.service.worker_peer import Editor


@contextmanager
def service(redis_url: str, home: Path) -> Iterator[tuple[httpx2.Client, subprocess.Popen[bytes]]]:
    """`python -m service` while the context lasts, or until somebody kills it."""
    port = free_port()
    environment = {
        **os.environ,
        "MEMIT_HOME": str(home),
        "MEMIT_REDIS_URL": redis_url,
        "MEMIT_PORT": str(port),
        "MEMIT_WEBHOOK_ALLOW_PRIVATE": LOOPBACK,
        "MEMIT_POLL_SECONDS": "0.2",
    }
    with (
        (home / "log").open("ab") as log,
        subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=log) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
    ):
        try:
            wait_for(client)
            yield client, process
        finally:
            process.kill()


def test_what_a_killed_service_did_not_deliver_comes(
    redis_url: str, tmp_path: Path, editor: Editor
) -> None:
    """One killed while the receiver has the event, another one before the edit has ended."""
    with receiving() as receiver:
        receiver.seconds = 20.0
        with service(redis_url, tmp_path) as (client, process):
            asked = {"url": receiver.url, "events": ["edit.committed"]}
            secret = client.post("/webhooks", json=asked).json()["secret"]
            one, two = (
                client.post("/edits", json={"facts": [about(city)]}).json()["id"]
                for city in ("Rome", "Oslo")
            )
            editor.run(one)
            first = receiver.wait_for(1)[0]
            process.kill()
            process.wait()
        editor.run(two)
        with redis.Redis.from_url(redis_url) as client_of_redis:
            client_of_redis.flushall()
        receiver.seconds = 0.0
        begun = time.monotonic()
        with service(redis_url, tmp_path) as (client, _):
            _, again, other = receiver.wait_for(3)
            webhook = client.get("/webhooks").json()[0]["id"]
            path = f"/webhooks/{webhook}/deliveries"
            wait_until(lambda: len(client.get(path).json()["items"]) == 2)
            time.sleep(0.5)
        assert len(receiver.got) == 3
        assert time.monotonic() - begun < 20
    assert first.id == again.id != other.id
    assert first.body == again.body
    told = [got.verified(secret)["data"]["id"] for got in (first, again, other)]
    assert told == [one, one, two]
    assert secret[6:] not in (tmp_path / "log").read_text()


def test_a_dead_holder_of_the_lock_is_waited_for_and_no_longer(
    redis_url: str, tmp_path: Path, editor: Editor
) -> None:
    """It cannot let the lock go, so it expires."""
    with receiving() as receiver, service(redis_url, tmp_path) as (client, _):
        asked = {"url": receiver.url, "events": ["edit.committed"]}
        webhook = client.post("/webhooks", json=asked).json()["id"]
        edit = client.post("/edits", json={"facts": [about("Rome")]}).json()["id"]
        with redis.Redis.from_url(redis_url) as client_of_redis:
            client_of_redis.set(f"memit:webhook:{webhook}", "another", ex=3)
            editor.run(edit)
            time.sleep(1.5)
            assert receiver.got == []
            receiver.wait_for(1)


def test_without_redis_events_wait(tmp_path: Path, editor: Editor) -> None:
    """It comes back with nothing in it."""
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    try:
        with receiving() as receiver, service(server.url, tmp_path) as (client, _):
            asked = {"url": receiver.url, "events": ["alias.moved"]}
            secret = client.post("/webhooks", json=asked).json()["secret"]
            server.kill()
            moved = client.put(
                "/aliases/canary", json={"version": "v0"}, headers={"If-None-Match": "*"}
            )
            assert moved.status_code == 201
            time.sleep(1.0)
            assert receiver.got == []
            shutil.rmtree(tmp_path / "redis")
            server.start()
            (got,) = receiver.wait_for(1)
            assert got.verified(secret)["data"]["name"] == "canary"
            assert client.get("/healthz").status_code == 200
    finally:
        server.stop()

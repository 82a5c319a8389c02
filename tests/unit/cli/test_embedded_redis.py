"""Our own Redis comes up whatever an unclean death left in its folder; it is only transport."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from cli import embedded_redis
from cli.child import ChildFailed
from cli.embedded_redis import EmbeddedRedis
from cli.supervisor import Patience, Supervisor, in_background
from tests.unit.cli.waiting import wait_until

BAD_FORMAT = "Bad file format reading the append only file"
CRASHING = b"REDIS0011\xfe\x00" + b"\x00\x01k\x01v" * 2 + b"\xff" + bytes(8)
"""The same key twice, on which the server aborts."""
Make = Callable[..., EmbeddedRedis]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, said: list[str]) -> Iterator[Make]:
    """Servers on a folder whose data was once good; none is running."""
    made: list[EmbeddedRedis] = []

    def make(port: int | None = None) -> EmbeddedRedis:
        made.append(EmbeddedRedis(tmp_path / "redis", port, said.append))
        return made[-1]

    server = make()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value " * 1_000)
        client.bgrewriteaof()
        wait_until(lambda: any(tmp_path.rglob("*.2.base.rdb")))
        client.mset({f"key {i}": "value" for i in range(100)})
        client.execute_command("WAITAOF", 1, 0, 5_000)
    server.kill()
    yield make
    for server in made:
        server.kill()


def spoil(folder: Path, pattern: str, data: bytes | None = None) -> Path:
    """Overwrite a file, or the middle of it."""
    file = next(folder.glob(f"appendonlydir/{pattern}"))
    old = file.read_bytes()
    half = len(old) // 2
    file.write_bytes(old[:half] + b"\0" * 40 + old[half + 40 :] if data is None else data)
    return file


@pytest.mark.parametrize(
    ("pattern", "data", "reason"),
    [
        ("*.incr.aof", None, BAD_FORMAT),
        ("*.base.rdb", b"REDIS0011\xfe\x00", "Short read"),
        ("*.base.rdb", CRASHING, "duplicate"),
        ("*.manifest", b"\0garbage\n", "too long line"),
        ("*.manifest", b"", "empty AOF manifest"),
    ],
)
def test_what_it_cannot_read_is_moved_aside_and_told(
    make: Make, said: list[str], pattern: str, data: bytes | None, reason: str
) -> None:
    server = make()
    spoilt = spoil(server.folder, pattern, data)
    kept = spoilt.read_bytes()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0
    [line] = said
    assert reason in line
    assert "edits are queued again from the registry" in line
    [aside] = server.folder.glob("appendonlydir.unreadable-*")
    assert str(aside) in line
    assert (aside / spoilt.name).read_bytes() == kept
    server.stop()
    server.start()
    assert len(said) == 1, "what it wrote itself it can read again"


def test_a_tail_that_was_cut_off_costs_no_more_than_the_tail(make: Make, said: list[str]) -> None:
    server = make()
    file = next(server.folder.glob("appendonlydir/*.incr.aof"))
    file.write_bytes(file.read_bytes()[:-3])
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.exists("key")
    assert said == []


def test_data_is_left_alone_when_something_else_is_wrong(make: Make, said: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = make(port=taken.getsockname()[1])
        spoil(server.folder, "*.incr.aof")
        before = {path: path.stat().st_mtime_ns for path in server.folder.glob("append*/*")}
        with pytest.raises(ChildFailed, match=r"exit code 1 .* Address already in use"):
            server.start()
    assert before == {path: path.stat().st_mtime_ns for path in server.folder.glob("append*/*")}
    assert sorted(path.name for path in server.folder.iterdir()) == [
        "appendonlydir",
        "redis.conf",
        "redis.log",
    ]
    assert said == []


def test_a_full_disk_is_named_though_the_log_has_no_room_for_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/")._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = make(port=taken.getsockname()[1])
        with pytest.raises(ChildFailed, match=r"did not start.*: the disk of .*redis is full$"):
            server.start()


def test_also_when_it_is_started_again(make: Make, said: list[str]) -> None:
    server = make()
    with in_background(Supervisor([server], said.append, Patience(first_delay=0.5))):
        wait_until(lambda: len(said) == 1)
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: "starting it again" in said[-1])
        spoil(server.folder, "*.incr.aof")
        wait_until(lambda: said[-1].startswith("redis started again"))
        assert BAD_FORMAT in said[-2]


def test_a_long_file_is_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make()
    # Once every 1024 commands the server says that it is still loading.
    slow = _command("EVAL", "for i = 1, 4000 do local x = i % 7 end", "0") * 96_000
    spoil(server.folder, "*.incr.aof", _command("SELECT", "0") + slow)
    monkeypatch.setattr(embedded_redis, "START_SECONDS", 1.0)
    began = time.monotonic()
    server.start()
    assert time.monotonic() - began > 1.0


def _command(*words: str) -> bytes:
    """A command as it stands in an append-only file."""
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words
    )

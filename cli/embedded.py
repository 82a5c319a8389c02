"""The whole service as children of this process: Redis, worker and API."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cli.child import Child
from cli.embedded_redis import EmbeddedRedis, free_port
from cli.errors import CommandFailed
from cli.home_lock import home_lock
from cli.supervisor import Supervisor
from contracts.settings import Settings
from registry.errors import RegistryError
from service.listening import prepare_keys

API_GRACE = 5.0
WORKER_GRACE = 10.0


@dataclass(frozen=True)
class Embedded:
    """The service as children of a supervisor."""

    supervisor: Supervisor
    url: str
    """Where the API will answer."""
    redis_url: str
    worker: Child


@contextmanager
def embedded(settings: Settings, report: Callable[[str], None]) -> Iterator[Embedded]:
    """The service, not yet running: that is for its supervisor to do.

    The home is locked until the context ends. A Redis of our own is among the children unless
    `settings` name one.

    Raises:
        CommandFailed: the home or the port is in use, or a key is needed and there is none.
    """
    if settings.port == 0:
        settings = settings.model_copy(update={"port": free_port()})
    url = url_of(settings.host, settings.port)
    with home_lock(settings.home, f"memit serve at {url} (pid {os.getpid()})"):
        _refuse_busy_port(settings.host, settings.port)
        _prepare_keys(settings)
        children: list[Child] = []
        if settings.redis_url is None:
            redis = EmbeddedRedis(settings.home / "redis", report=report)
            children.append(redis)
            settings = settings.model_copy(
                update={"redis_url": redis.url, "redis_password_file": None}
            )
        worker = python_child("worker", settings, WORKER_GRACE)
        children += [worker, python_child("service", settings, API_GRACE)]
        yield Embedded(Supervisor(children, report), url, _redis_url(settings), worker)


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches an API that listens on `host`."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def environment_of(settings: Settings) -> dict[str, str]:
    """Our environment, in which a child reads exactly these settings."""
    ours = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    for name, value in settings.model_dump(mode="json").items():
        ours.pop(f"MEMIT_{name.upper()}", None)
        if value is not None:
            ours[f"MEMIT_{name.upper()}"] = str(value)
    return ours


def _redis_url(settings: Settings) -> str:
    try:
        return settings.redis()
    except OSError as error:
        raise CommandFailed(f"redis_password_file: {error}") from None


def python_child(package: str, settings: Settings, grace: float) -> Child:
    """`python -m package`, with these settings; its log is in the folder `logs` of the home."""
    return Child(
        package,
        # -P: a folder of the same name where we were started must not be taken for the package.
        [sys.executable, "-P", "-m", package],
        settings.home / "logs" / f"{package}.log",
        env=environment_of(settings),
        grace=grace,
    )


def _prepare_keys(settings: Settings) -> None:
    try:
        prepare_keys(settings)
    except (ValueError, RegistryError) as error:
        raise CommandFailed(str(error)) from None


def _refuse_busy_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server does it: a port whose last connections only linger is not in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CommandFailed(
                    f"port {port} of {host} is in use; stop what listens there, "
                    "or choose another --port"
                ) from None
            raise CommandFailed(f"cannot listen on {host}:{port}: {error.strerror}") from None

"""A real service on a real port, a real Redis, and a registry that a worker peer fills."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from cli.embedded_redis import EmbeddedRedis
from contracts.settings import Settings
from registry.folder_store import FolderStore
from registry.registry import Registry
from service.app import create_app
from service.server import server_config
from tests.unit.service.rebasing import OTHER_BASE, OTHER_HPARAMS, Source
from tests.unit.service.worker_peer import Editor

START_SECONDS = 10.0


class House(NamedTuple):
    """A service, and the registry that it reads."""

    client: httpx2.Client
    registry: Registry


Serve = Callable[..., httpx2.Client]


class Service:
    """The service on a free port, in a thread of its own."""

    def __init__(self, settings: Settings, app: FastAPI | None = None) -> None:
        app = app or create_app(settings)
        config = server_config(app, settings, host="127.0.0.1", port=0)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            assert self._thread.is_alive(), "the service did not start"
            assert time.monotonic() < deadline, "the service did not start in time"
            time.sleep(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()
        self.client = httpx2.Client(base_url=f"http://{host}:{port}", trust_env=False, timeout=20)

    def stop(self) -> None:
        """Begin to stop; `join` waits for the end of it."""
        self.client.close()
        self._server.should_exit = True

    def join(self) -> None:
        self._thread.join(START_SECONDS)
        assert not self._thread.is_alive(), "the service did not stop"


@pytest.fixture(scope="session")
def stopping() -> Iterator[list[Service]]:
    """Services that were told to stop: nobody has to wait for each."""
    services: list[Service] = []
    yield services
    for service in services:
        service.join()


@pytest.fixture
def serve(redis_url: str, tmp_path: Path, stopping: list[Service]) -> Iterator[Serve]:
    """Starts a service with some settings of its own; a client for it."""
    started: list[Service] = []

    def start(**settings: Any) -> httpx2.Client:
        given = {
            "MEMIT_REDIS_URL": redis_url,
            "home": tmp_path,
            "start_timeout": 2,
            "poll_seconds": 0.1,
        }
        given |= settings
        started.append(Service(Settings(**given)))
        return started[-1].client

    yield start
    for service in started:
        service.stop()
    stopping += started


@pytest.fixture(scope="session")
def refusing(
    redis_server: EmbeddedRedis,
    tmp_path_factory: pytest.TempPathFactory,
    stopping: list[Service],
) -> Iterator[House]:
    """One service for every request that must leave nothing behind; v0 is active."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(FolderStore(home / "registry"))
    Editor(registry).publish_base()
    service = Service(Settings(MEMIT_REDIS_URL=redis_server.url, home=home))
    yield House(service.client, registry)
    service.stop()
    stopping.append(service)


@pytest.fixture
def registry(registry_path: Path) -> Registry:
    """The folder that the service reads, opened as another process would."""
    return Registry(FolderStore(registry_path))


@pytest.fixture
def editor(registry: Registry) -> Editor:
    """A worker's editing side; the untouched model is v0 and active."""
    editor = Editor(registry)
    editor.publish_base()
    return editor


@pytest.fixture
def client(serve: Serve) -> httpx2.Client:
    return serve()


@pytest.fixture
def source(serve: Serve, tmp_path: Path) -> Source:
    """Another service, to rebase from: other model, other hyperparameters, v0 is active."""
    home = tmp_path / "source"
    registry = Registry(FolderStore(home / "registry"))
    editor = Editor(registry, "other", OTHER_BASE, OTHER_HPARAMS)
    editor.publish_base()
    return Source(serve(home=home), editor)

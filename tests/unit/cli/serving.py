"""A real service on a free port, in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from contracts.settings import Settings
from service.app import create_app
from tests.unit.cli.waiting import SOON, wait_until


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The service while the context lasts; gives its URL."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    assert server.started, "the service did not start"
    try:
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(SOON)
    assert not thread.is_alive(), "the service did not stop"

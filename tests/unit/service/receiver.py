"""A receiver of webhooks on a real port of this machine, that answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks import Webhook

from tests.unit.cli.waiting import wait_until

LOOPBACK = "127.0.0.0/8"


class Got(NamedTuple):
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """The event; raises unless it is signed with `secret`."""
        found = Webhook(secret).verify(self.body, self.headers)
        assert isinstance(found, dict)
        return found


class Receiver:
    """Keeps what it gets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.got: list[Got] = []
        self.connections = 0
        self.answers: list[tuple[int, dict[str, str]]] = []
        """Statuses and headers of the next answers; then 204."""
        self.seconds = 0.0
        """That an answer takes."""

    def ids(self) -> list[str]:
        return [one.id for one in list(self.got)]

    def wait_for(self, count: int, seconds: float = 20.0) -> list[Got]:
        wait_until(lambda: len(self.got) >= count, seconds)
        return list(self.got)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(Got({k.lower(): v for k, v in self.headers.items()}, body))
            status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
            time.sleep(receiver.seconds)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def verify_request(self, *_: object) -> bool:
            receiver.connections += 1
            return True

    server = Server(("127.0.0.1", port), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook/token-of-the-receiver")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

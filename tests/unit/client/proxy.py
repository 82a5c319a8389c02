"""A small real proxy before a service, which now and then answers itself or breaks off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}


@dataclass(frozen=True)
class Own:
    """An answer of the proxy's."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"<html>busy</html>"


@dataclass(frozen=True)
class Cut:
    """The service gets the request, and its answer breaks off after so many bytes of the body."""

    after: int = 0


@dataclass
class Proxy:
    """What it does to the next requests, and those that it saw."""

    url: str
    script: list[Own | Cut] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def headers(self, name: str) -> list[str | None]:
        """Of all requests; names are in lower case."""
        return [headers.get(name) for _, _, headers in self.seen]


@contextmanager
def proxy(service: str) -> Iterator[Proxy]:
    """A proxy on a free port while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is inherited
            pass

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.seen.append((self.command, self.path, headers))
            step = made.script.pop(0) if made.script else None
            if isinstance(step, Own):
                self._send(step.status, {"Content-Type": "text/html", **step.headers}, step.body)
                return
            passed = {name: value for name, value in headers.items() if name not in HOP_BY_HOP}
            answer = httpx2.request(
                self.command, service + self.path, content=body, headers=passed, trust_env=False
            )
            kept = {n: v for n, v in answer.headers.items() if n.lower() not in HOP_BY_HOP}
            self._send(answer.status_code, kept, answer.content, step)

        do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - names of http.server

        def _send(
            self, status: int, headers: dict[str, str], body: bytes, cut: Cut | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body if cut is None else body[: cut.after]
            self.wfile.write(sent)
            self.close_connection = len(sent) < len(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

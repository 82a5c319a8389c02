"""One client's connection: how long it may take, and what it is told where HTTP itself is broken.

uvicorn waits for ever for the end of headers, and for a client that does not read its answer.
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from contracts.errors import Problem
from contracts.limits import MAX_HEADER_BYTES
from contracts.retry_after import CONNECTIONS
from service.error_shapes import PROBLEM_MEDIA_TYPE

STALL_SECONDS = 30.0
"""A client that takes nothing of its answer for so long is disconnected. It is less than the time
that an engine keeps a complete answer, so a shorter pause loses nothing."""


def protocol(head_seconds: float, max_connections: int) -> type[H11Protocol]:
    """A protocol for uvicorn.

    Args:
        head_seconds: for request line and headers, from the connection or their first byte.
        max_connections: of this process; one more is told 503 and closed.
    """

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _stall: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._say(503, f"{max_connections} connections are open already")
            else:
                self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._await_no_head()
            elif self._head is None:
                self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._await_no_head()
            if self._stall is not None:
                self._stall.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            if self._stall is not None:
                self._stall.cancel()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002
            # uvicorn calls this where it has caught the error, and does not hand it on.
            error = sys.exc_info()[1]
            if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
                self._say(431, f"the headers must have at most {MAX_HEADER_BYTES} bytes together")
            else:
                self._say(400, "the request is not HTTP/1.1 as RFC 9112 has it")

        def _await_no_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _expect_head(self) -> None:
            self._head = self.loop.call_later(head_seconds, self._too_slow)

        def _too_slow(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._say(408, f"the headers must come within {head_seconds:g} seconds")

        def _say(self, status: int, detail: str) -> None:
            if not self.transport.is_closing():
                self.transport.write(_answer(status, detail))
                self.transport.close()

    return Connection


def _answer(status: int, detail: str) -> bytes:
    """A problem where there is no request that an application could answer."""
    phrase = HTTPStatus(status).phrase
    slug = phrase.lower().replace(" ", "-")
    problem: dict[str, Any] = {"type": f"/problems/{slug}", "title": phrase, "status": status}
    body = Problem(**problem, detail=detail).model_dump_json().encode()
    head = [
        f"HTTP/1.1 {status} {phrase}",
        f"Content-Type: {PROBLEM_MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        head.append(f"Retry-After: {CONNECTIONS:.0f}")
    return "\r\n".join([*head, "", ""]).encode() + body

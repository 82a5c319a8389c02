"""What a request may have before a router sees it: headers, address, declared length, time."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import FieldError, ServiceError
from contracts.limits import LEAST_BODY_RATE, MAX_HEADER_BYTES, MAX_HEADERS, MAX_URL_BYTES
from service.problems import HttpError, answer, too_large


class RequestLimits:
    """ASGI middleware: 413, 414 and 431 before a byte of the body is read, 408 while it is.

    Bodies without a declared length are counted by FastAPI's `max_body_size` as they are read.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, body_seconds: float) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = self._refusal(scope)
        if error is not None:
            await _refuse(scope, receive, send, error)
            return
        body = _Body(receive, self.body_seconds)

        async def unless_late(message: Message) -> None:
            body.answered = body.answered or not body.late
            if body.answered:
                await send(message)

        await self.app(scope, body.receive, unless_late)
        if body.late and not body.answered:
            words = f"the body must come within {self.body_seconds:g} seconds"
            await _refuse(scope, receive, send, HttpError(408, words))

    def _refusal(self, scope: Scope) -> ServiceError | None:
        headers = Headers(scope=scope)
        if len(headers) > MAX_HEADERS:
            words = f"there must be at most {MAX_HEADERS} headers"
            return _over(431, "headers", words, MAX_HEADERS)
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
            words = f"the headers must have at most {MAX_HEADER_BYTES} bytes together"
            return _over(431, "headers", words, MAX_HEADER_BYTES)
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
            words = f"path and query must have at most {MAX_URL_BYTES} bytes together"
            return _over(414, "path", words, MAX_URL_BYTES)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_body_bytes:
            return too_large(self.max_body_bytes)
        return None


class _Body:
    """A body as it comes; to the application its client is gone when it takes too long."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        self.late = False
        self.answered = False
        """Then it may take as long as it likes: nobody waits for it."""
        self._receive = receive
        self._until = time.monotonic() + seconds
        self._whole = False

    async def receive(self) -> Message:
        """The next part."""
        if self._whole or self.answered:
            return await self._receive()
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            if self.answered:
                return await self._receive()
            self.late = True
            return {"type": "http.disconnect"}
        self._until += len(message.get("body", b"")) / LEAST_BODY_RATE
        self._whole = not message.get("more_body", False)
        return message


def _over(status: int, field: str, reason: str, limit: int) -> ServiceError:
    return HttpError(status, reason, [FieldError(field=field, reason=reason, limit=limit)])


async def _refuse(scope: Scope, receive: Receive, send: Send, error: ServiceError) -> None:
    """Answer and close: what the client has yet to send is not read."""
    response = answer(Request(scope), error)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)

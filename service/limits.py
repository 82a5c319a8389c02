"""Refuse a body by its declared length before a byte of it is read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import answer, too_large


class DeclaredLength:
    """ASGI middleware: 413 when `Content-Length` is over the limit.

    Bodies without a declared length are counted by FastAPI's `max_body_size` as they are read.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            length = Headers(scope=scope).get("content-length", "0")
            if length.isdecimal() and int(length) > self.max_body_bytes:
                response = answer(Request(scope), too_large(self.max_body_bytes))
                response.headers["Connection"] = "close"
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

"""Headers that tell browsers and caches to be careful with every answer, errors included."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGES = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc"})
"""Pages for people, which load their scripts from a CDN."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
NOT_FRAMED = "frame-ancestors 'none'"
DATA = f"default-src 'none'; {NOT_FRAMED}"


class SecurityHeaders:
    """ASGI middleware: nothing is cached, framed or sniffed unless its endpoint says otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        policy = NOT_FRAMED if scope["path"] in PAGES else DATA

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["Content-Security-Policy"] = policy
                if headers.get("Cache-Control") in (None, "no-cache"):  # as events have it
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, careful)

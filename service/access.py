"""One line in the log for each request, when its answer has ended."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
CLIENT_CLOSED_REQUEST = 499
"""As nginx counts those who hang up before they have an answer: no fault of the service's."""

log = logging.getLogger(__name__)


def asked(request: Request) -> str:
    """Method and path of a request, fit for a line of a log; never the query, which holds texts."""
    return f"{request.method} {quote(request.scope['path'])}"


class AccessLog:
    """ASGI middleware: method, path, status and seconds; the ids are bound by who knows them.

    An answer that broke off is no failure of the service: it says `client_left`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        status, whole = 500, False

        async def noted(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        failed = True
        try:
            await self.app(scope, receive, noted)
            failed = False
        finally:
            left = not failed and (not whole or status == CLIENT_CLOSED_REQUEST)
            log.log(
                logging.DEBUG if scope["path"] in PROBES else logging.INFO,
                "request",
                extra={
                    "method": scope["method"],
                    "path": quote(scope["path"]),
                    "status": status,
                    "seconds": round(time.perf_counter() - begun, 6),
                }
                | ({"client_left": True} if left else {}),
            )

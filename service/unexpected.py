"""What nobody foresaw is a 500 in the shape of its router, and a traceback in the log."""

from __future__ import annotations

import logging

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import ServiceError
from service.access import asked
from service.problems import answer

log = logging.getLogger(__name__)


class Unexpected:
    """ASGI middleware: inside of those that put headers on answers and count them.

    Starlette's own answer to such errors is written outside of all middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            if started:
                raise  # the server breaks the connection off, and logs it
            request = Request(scope)
            log.exception("%s failed", asked(request))
            error = ServiceError("an unexpected error; the log of the service says why")
            await answer(request, error)(scope, receive, send)

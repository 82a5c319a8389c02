"""Every answer has an `X-Request-ID`: the client's own, or one that is made here."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from contracts import tracing
from contracts.origin import Origin

HEADER = "X-Request-ID"
_PLAIN = re.compile(r"[!-~]{1,128}")


class RequestId:
    """ASGI middleware: a client's id comes back if it is plain ASCII of at most 128 characters.

    It is in every line that is logged for the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _PLAIN.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        # Not taken back: the server logs what fails, in the same context, after all of us.
        clear_contextvars()
        bind_contextvars(**Origin(request_id=request_id, traceparent=tracing.traceparent()).ids)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self.app(scope, receive, named)

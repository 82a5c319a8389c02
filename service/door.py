"""Nobody comes to a router without a valid key where one is needed, nor past its requests a minute.

The key is looked at before a byte of the body is read, for every path but those in `OPEN`, also
for paths where nothing is. The scope is asked for when the route is known: see `authorized`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio.to_thread import run_sync
from fastapi import FastAPI, Request, Response
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from contracts.errors import ServiceError
from contracts.ids import EDIT_ID
from registry.errors import RegistryError
from service.principal import Principal
from service.problems import answer, storage_failed
from service.scopes import OPEN, needed

if TYPE_CHECKING:
    from service.deps import Context


class Door:
    """ASGI middleware: 401 and 429; it leaves the principal in the request's state."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            refused = await self._refusal(scope)
            if refused is not None:
                await refused(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        context: Context = scope["state"]["context"]
        shown = Headers(scope=scope).get("authorization")
        try:
            if context.keyring.remembers(shown):
                principal = context.keyring.principal(shown)
            else:
                principal = await run_sync(context.keyring.principal, shown)
            await context.rates.take_request(principal)
        except ServiceError as error:
            return answer(Request(scope), error)
        except RegistryError as error:
            return storage_failed(Request(scope), error)
        scope["state"]["principal"] = principal
        bind_contextvars(key_id=principal.id)
        return None


def install(app: FastAPI) -> None:
    """Put the door before all routers of `app`, which has them all by now."""
    app.add_middleware(Door)
    # A route by itself does not know the prefixes of the routers around its own.
    app.state.paths = {
        id(route.original_route): route.path_format for route in iter_route_contexts(app.routes)
    }


async def authorized(request: Request) -> None:
    """403 unless the principal has the scope of the route that was found.

    For the router above all others, so that none of its routes can be forgotten.
    """
    paths: dict[int, str] = request.app.state.paths
    edit_id = str(request.path_params.get("edit_id", ""))
    if EDIT_ID.fullmatch(edit_id):
        bind_contextvars(edit_id=edit_id)
    scope = needed(request.method, paths[id(request.scope["route"])])
    if scope is not None:
        caller(request).require(scope)


def caller(request: Request) -> Principal:
    """The principal of a request that came through the door."""
    principal: Principal = request.state.principal
    return principal

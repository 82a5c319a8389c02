"""What becomes of every error: which `ServiceError` it is, and its answer in words."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from contracts import retry_after as after
from contracts.errors import (
    FieldError,
    InvalidRequest,
    MalformedRequest,
    PayloadTooLarge,
    ServiceError,
    Unavailable,
)
from registry.errors import RegistryError
from registry.kinds import explained, file_of
from service.access import CLIENT_CLOSED_REQUEST, asked
from service.error_shapes import ErrorShape, ErrorShapes

log = logging.getLogger(__name__)

MOST_ERRORS = 1_000
"""Listed in one answer: as many facts as an edit has by default. To name each of thirty thousand
would keep every other client waiting."""
_SHOWN = 3
_BOUNDS = ("max_length", "min_length", "le", "lt", "ge", "gt")


def invalid(
    errors: list[FieldError],
    cls: type[ServiceError] = InvalidRequest,
    retry_after: float | None = None,
    more: int = 0,
) -> ServiceError:
    """The error that lists `errors`; its detail names the first few of them in words.

    Args:
        more: errors beyond those.
    """
    detail = "; ".join(f"{error.field} {error.reason}".strip() for error in errors[:_SHOWN])
    if len(errors) + more > _SHOWN:
        detail += f"; and {len(errors) + more - _SHOWN} more"
    return cls(detail, errors=errors, retry_after=retry_after)


def too_large(limit: int) -> PayloadTooLarge:
    """413 for a body over `limit` bytes."""
    reason = f"the body must have at most {limit} bytes"
    return PayloadTooLarge(reason, errors=[FieldError(field="", reason=reason, limit=limit)])


class HttpError(ServiceError):
    """What the web framework refuses by itself, under the name that HTTP has for it."""

    def __init__(self, status: int, detail: str, errors: list[FieldError] | None = None) -> None:
        super().__init__(detail, errors=errors)
        self.status = status
        self.title = HTTPStatus(status).phrase
        self.slug = self.title.lower().replace(" ", "-")


def answer(
    request: Request, error: ServiceError, headers: Mapping[str, str] | None = None
) -> Response:
    """The HTTP answer for `error`, in the shape of the router that the request is for.

    It has `Retry-After` where the error says when to come back, and says how to show a key where
    one is missing.
    """
    shapes: ErrorShapes = request.app.state.error_shapes
    response = shapes.of(request)(error, request.url.path)
    response.headers.update(headers or {})
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return response


def storage_failed(request: Request, error: Exception) -> Response:
    """503 for an error of the registry, which goes to the log."""
    log.error("storage failed on %s", asked(request), exc_info=error)
    detail = "the registry cannot be read or written now; the log of the service says why"
    if isinstance(error, RegistryError) and file_of(error) is not None:
        detail = explained(error)
    return answer(request, Unavailable(detail, retry_after=after.STORAGE))


def field_error(error: dict[str, Any]) -> FieldError:
    """One pydantic error as a `FieldError`: JSON pointer, reason in words, limit if there is one.

    A parameter outside the body is named plainly (`limit`, `If-Match`).
    """
    place, *path = (part for part in error["loc"] if part != "[key]")  # as pydantic marks keys
    if place == "body":
        field = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
    else:
        field = "/".join(str(part) for part in path)
    context = error.get("ctx") or {}
    bounds = [context[name] for name in _BOUNDS if isinstance(context.get(name), int | float)]
    return FieldError(
        field=field,
        reason=_reason(error, context),
        index=next((part for part in path if isinstance(part, int)), None),
        limit=bounds[0] if bounds else None,
    )


def _reason(error: dict[str, Any], context: dict[str, Any]) -> str:
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a known field"
        case "value_error":
            return str(context["error"])
        case "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "string_unicode":
            return "must be valid Unicode text, without lone surrogates"
        case "literal_error":
            return f"must be {context['expected']}"
        case _:
            return re.sub(r"^\w+ should", "must", error["msg"])


def install(app: FastAPI, max_body_bytes: int, shapes: dict[str, ErrorShape]) -> None:
    """Answer every error of `app` in a shape that its clients know.

    Args:
        max_body_bytes: named in a 413.
        shapes: by the beginning of the path; see `ErrorShapes`.
    """
    app.state.error_shapes = ErrorShapes(shapes)

    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> Response:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        # The frame that raised it holds it, and it that frame: thousands of errors would stay
        # until a full collection of the garbage, for which every client waits.
        error.__traceback__ = None
        return answer(request, _from_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return answer(request, too_large(max_body_bytes))
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = _allowed(request)
        return answer(request, _from_http(request, error), headers)

    @app.exception_handler(RedisError)
    async def on_redis_error(request: Request, error: Exception) -> Response:
        log.warning("Redis failed on %s: %s", asked(request), error)
        return answer(request, Unavailable("Redis does not answer", retry_after=after.REDIS))

    @app.exception_handler(RegistryError)
    async def on_storage_error(request: Request, error: Exception) -> Response:
        return storage_failed(request, error)

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(_request: Request, _: Exception) -> Response:
        # For the metrics and the log: nobody reads it.
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def _from_validation(errors: Sequence[dict[str, Any]]) -> ServiceError:
    broken = next((error for error in errors if error["type"] == "json_invalid"), None)
    if broken is not None:
        reason = f"is not JSON: {broken['ctx']['error']} at character {broken['loc'][-1]}"
        return invalid([FieldError(field="", reason=f"the body {reason}")], MalformedRequest)
    listed = [field_error(error) for error in errors[:MOST_ERRORS]]
    return invalid(listed, more=len(errors) - len(listed))


def _from_http(request: Request, error: HTTPException) -> ServiceError:
    status = HTTPStatus(error.status_code)
    detail = str(error.detail)
    if status is HTTPStatus.BAD_REQUEST:
        return MalformedRequest("the body cannot be read as JSON")
    if status is HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed(request)
        detail = f"{request.method} is not allowed at {request.url.path}; allowed: {allowed}"
    return HttpError(status, detail)


def _allowed(request: Request) -> str:
    """Every method of the path; Starlette names those of the first route with it only."""
    path = request.url.path
    methods = {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.path_regex.match(path)
        for method in route.methods or ()
    }
    return ", ".join(sorted(methods))

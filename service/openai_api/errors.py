"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`.

The openai client repeats 408, 409, 429 and every status from 500 by itself, unless
`x-should-retry` says otherwise. So no 409 here, and the header says when a repeat is useless.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from contracts.errors import FieldError, NotFound, ServiceError

AS_BAD_REQUEST = frozenset({409, 412, 422, 428})
"""What OpenAI's API answers with 400."""
RENAMED = {"token_ids": "prompt"}
"""What an engine calls a field that the client called otherwise."""


class ErrorDetail(BaseModel):
    message: str = Field(examples=["temperature must be less than or equal to 10"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(default=None, examples=["temperature"])
    code: str | None = Field(default=None, examples=["model_not_found"])


class ErrorAnswer(BaseModel):
    """Body of every error under `/v1`."""

    error: ErrorDetail


class ModelNotFound(NotFound):
    """No version has this name."""


def openai_error(error: ServiceError, path: str) -> Response:  # noqa: ARG001 - as `ErrorShape`
    """The answer to a request that failed."""
    status = 400 if error.status in AS_BAD_REQUEST else error.status
    again = error.retry_after is not None
    headers = {"x-should-retry": "true" if again else "false"}
    if error.retry_after is not None:
        headers["retry-after-ms"] = str(round(error.retry_after * 1000))
    return JSONResponse(error_body(error), status, headers)


def error_body(error: ServiceError) -> dict[str, Any]:
    """The body of an answer, and the data of an `error` event in a stream."""
    first = error.errors[0] if error.errors else None
    message = error.detail
    param = None
    if first is not None and first.field:
        param = _param(first.field)
        message = "; ".join(f"{_param(one.field)} {one.reason}".strip() for one in error.errors[:3])
    kind, code = _kind(error)
    if isinstance(error, ModelNotFound):
        param = "model"
    elif error.status < 429 and first is not None and _too_long(first):
        code = "context_length_exceeded"
    detail = ErrorDetail(message=message, type=kind, param=param, code=code)
    return ErrorAnswer(error=detail).model_dump()


def _kind(error: ServiceError) -> tuple[str, str | None]:
    if isinstance(error, ModelNotFound):
        return "invalid_request_error", "model_not_found"
    if error.status == 401:
        return "invalid_request_error", "invalid_api_key"
    if error.status == 403:
        return "invalid_request_error", "insufficient_permissions"
    if error.status == 429:
        return "requests", "rate_limit_exceeded"
    if error.status >= 500:
        return "server_error", None
    return "invalid_request_error", None


def _too_long(error: FieldError) -> bool:
    """An engine found that prompt, or prompt and answer, do not fit into the context."""
    return error.limit is not None and " tokens" in error.reason and error.field.count("/") == 1


def _param(field: str) -> str:
    """`/messages/0/content` as `messages[0].content`; names of parameters stay as they are."""
    name, *path = field.removeprefix("/").split("/")
    if name in RENAMED:  # the place in it is that of one among several prompts
        return RENAMED[name]
    rest = "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in path)
    return re.sub(r"~1", "/", f"{name}{rest}")

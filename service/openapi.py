"""The OpenAPI description: problems as the answer to every error, an example in every schema."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from contracts.edits import Edit
from contracts.errors import Problem
from service.error_shapes import PROBLEM_MEDIA_TYPE
from service.release import release
from service.scopes import needed

TITLE = "MEMIT service"
VERSION = release()
DESCRIPTION = """
Keep a language model's facts current without retraining. Post facts to `/edits`, get a new
immutable version of the weights, ask it by `/generate`, take any fact back later.

Every error is `application/problem+json` (RFC 9457); under `/v1`, which is OpenAI's API, it has the
shape that OpenAI's clients know.

Where keys are required, send one as `Authorization: Bearer memit_...`; each operation names the
scope that it needs.
"""

VERSION_HEADER = "X-Memit-Version"
TIMING_HEADER = "Server-Timing"
KEY = "key"
"""What the description calls the way to send one."""
Responses = dict[int | str, dict[str, Any]]

PROBLEMS: Responses = {
    "default": {
        "description": "What is wrong, and where.",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
OF_KEYS = {"401": "No key that is valid, where one is required.", "403": "The key may not do this."}
"""More of every operation that needs a scope; the same body."""
ACCEPTED: Responses = {
    202: {
        "description": "Accepted; follow it at `Location`.",
        "model": Edit,
        "headers": {
            "Location": {
                "description": "where the edit is",
                "schema": {"type": "string"},
                "example": "/edits/edit-0123456789abcdef0123",
            },
            "Retry-After": {
                "description": "seconds",
                "schema": {"type": "integer"},
                "example": 2,
            },
        },
    }
}

ANSWER_HEADERS: dict[str, Any] = {
    VERSION_HEADER: {
        "description": "the version that answers; of several all, in the order asked",
        "schema": {"type": "string"},
        "example": "v1-9f3c2a71b0de",
    },
    TIMING_HEADER: {
        "description": "milliseconds until an engine began, of the prompt, of the tokens after "
        "the first, and until this header was sent; a stream knows the first and the last",
        "schema": {"type": "string"},
        "example": "queue;dur=4.1, prefill;dur=87.3, decode;dur=221.1, total;dur=312.5",
    },
}
GENERATED: Responses = {
    200: {
        "description": "The continuation, or all where `n` is over 1; with `stream` as events, the "
        "last of them `[DONE]`.",
        "headers": ANSWER_HEADERS,
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "properties": {
                        "event": {"enum": ["start", "token", "end", "error", "message"]},
                        "data": {"type": "string"},
                    },
                    "required": ["data"],
                },
                "example": (
                    'event: start\ndata: {"id":"gen-5b1f0c9a8d7e6f5a4b3c",'
                    '"version":"v1-9f3c2a71b0de"}\n\n'
                    'event: token\ndata: {"text":" Rome"}\n\n'
                    'event: end\ndata: {"version":"v1-9f3c2a71b0de","finish_reason":"length",'
                    '"usage":{"prompt_tokens":10,"completion_tokens":1}}\n\n'
                    "data: [DONE]\n\n"
                ),
            }
        },
    }
}


def install(app: FastAPI) -> None:
    """Let `app` describe its problems too."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    # The documented way to extend FastAPI's description.
    app.openapi = describe  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    described = get_openapi(
        title=TITLE,
        version=VERSION,
        description=DESCRIPTION,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    schemas = described["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    described["components"]["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            scope = needed(method.upper(), path)
            operation["security"] = [] if scope is None else [{KEY: [scope.value]}]
            if scope is not None:
                answers = operation["responses"]
                for status, description in OF_KEYS.items():
                    answers[status] = {**answers["default"], "description": description}
    for schema in schemas.values():
        if "enum" in schema:
            schema.setdefault("examples", schema["enum"][:1])
    return described

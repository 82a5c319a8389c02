"""How errors look on the wire: each router has a shape, and what no router answers the default."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from contracts.errors import ServiceError


class ErrorShape(Protocol):
    """Turns an error into the answer that clients of a router expect."""

    def __call__(self, error: ServiceError, path: str) -> Response:
        """The answer to a request for `path`, with status and body; headers are added to it."""


def problem_json(error: ServiceError, path: str) -> Response:
    """`application/problem+json` (RFC 9457)."""
    problem = error.problem(path)
    return Response(
        problem.model_dump_json(), status_code=problem.status, media_type=PROBLEM_MEDIA_TYPE
    )


PROBLEM_MEDIA_TYPE = "application/problem+json"


class ErrorShapes:
    """Which shape holds where, by the beginnings of paths."""

    def __init__(self, by_prefix: dict[str, ErrorShape]) -> None:
        """
        Args:
            by_prefix: such as `/v1`; everywhere else it is `problem_json`.
        """
        self._by_prefix = sorted(by_prefix.items(), key=lambda item: -len(item[0]))

    def of(self, request: Request) -> ErrorShape:
        """The shape for a request, also where there is nothing at its path."""
        path = f"{request.url.path}/"
        for prefix, shape in self._by_prefix:
            if path.startswith(f"{prefix}/"):
                return shape
        return problem_json

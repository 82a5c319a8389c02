"""What is wrong, as the service says it (RFC 9457)."""

from __future__ import annotations

from memit_client.model import Model


class FieldError(Model):
    """One wrong field of a request."""

    field: str
    """JSON pointer, such as `/facts/3/prompt`, or the name of a parameter."""
    reason: str
    index: int | None = None
    """Position in the list of facts, if it is in one."""
    limit: float | None = None


class Problem(Model):
    """`application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[FieldError] = []

"""The one error tree of the service, and the shape in which clients see it (RFC 9457).

ServiceError
├── InvalidRequest        422  a field is wrong; `errors` names each field, the reason and the limit
├── MalformedRequest      400  the body or a header cannot be read at all
├── Unauthorized          401  no key, or none that is valid
├── Forbidden             403  the key may not do this
├── NotFound              404  no such edit, fact, version or alias
├── Conflict              409  the request is well formed but the present state refuses it
├── PreconditionFailed    412  `If-Match` names another epoch than the current one
├── PayloadTooLarge       413  the body is over the byte limit
├── PreconditionRequired  428  the request must carry `If-Match`
├── TooManyRequests       429  a queue is full, or the key's minute; again after `retry_after`
└── Unavailable           503  no ready worker or Redis; try again after `retry_after`
    └── NoVersion              no worker has published v0 yet
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from contracts.retry_after import NO_VERSION


class FieldError(BaseModel):
    """One wrong field of a request."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="JSON pointer of the field", examples=["/facts/3/prompt"])
    reason: str = Field(
        description="what is wrong", examples=["must contain exactly one {}, found 2"]
    )
    index: int | None = Field(
        default=None, description="position in the list of facts, if it is in one", examples=[3]
    )
    limit: float | None = Field(
        default=None, description="the limit that was passed, if one was", examples=[2000]
    )


class Problem(BaseModel):
    """`application/problem+json`, the body of every error (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(examples=["/problems/invalid-request"])
    title: str = Field(examples=["Invalid request"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["/facts/3/prompt must contain exactly one {}, found 2"])
    instance: str | None = Field(
        default=None, description="the path that was asked for", examples=["/edits"]
    )
    errors: list[FieldError] = Field(
        default_factory=list,
        examples=[
            [
                {
                    "field": "/facts/3/prompt",
                    "reason": "must contain exactly one {}, found 2",
                    "index": 3,
                }
            ]
        ],
    )


class ServiceError(Exception):
    """Base of every error that a client may see."""

    status: int = 500
    slug: str = "internal-error"
    title: str = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after

    @property
    def plain(self) -> str:
        """The message without texts of clients, for logs: of wrong fields only which they are."""
        if not self.errors:
            return self.detail
        return f"{self.title}: {', '.join(error.field for error in self.errors[:3])}"

    def problem(self, instance: str | None = None) -> Problem:
        """The body that a client gets for this error."""
        return Problem(
            type=f"/problems/{self.slug}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            instance=instance,
            errors=self.errors,
        )


class InvalidRequest(ServiceError):
    status, slug, title = 422, "invalid-request", "Invalid request"


class MalformedRequest(ServiceError):
    status, slug, title = 400, "malformed-request", "Malformed request"


class Unauthorized(ServiceError):
    status, slug, title = 401, "unauthorized", "No valid key"


class Forbidden(ServiceError):
    status, slug, title = 403, "forbidden", "The key may not do this"


class NotFound(ServiceError):
    status, slug, title = 404, "not-found", "Not found"


class Conflict(ServiceError):
    status, slug, title = 409, "conflict", "Conflict with the present state"


class PreconditionFailed(ServiceError):
    status, slug, title = 412, "precondition-failed", "Precondition failed"


class PayloadTooLarge(ServiceError):
    status, slug, title = 413, "payload-too-large", "Payload too large"


class PreconditionRequired(ServiceError):
    status, slug, title = 428, "precondition-required", "Precondition required"


class TooManyRequests(ServiceError):
    status, slug, title = 429, "too-many-requests", "Too many requests"


class Unavailable(ServiceError):
    status, slug, title = 503, "unavailable", "Service unavailable"


class NoVersion(Unavailable):
    def __init__(self) -> None:
        super().__init__(
            "no version yet: a worker publishes v0 when it has loaded the model",
            retry_after=NO_VERSION,
        )


_BY_STATUS: dict[int, type[ServiceError]] = {
    cls.status: cls
    for cls in (
        MalformedRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        PreconditionFailed,
        PayloadTooLarge,
        InvalidRequest,
        PreconditionRequired,
        TooManyRequests,
        Unavailable,
    )
}


def from_problem(problem: Problem, retry_after: float | None = None) -> ServiceError:
    """Rebuild the exception that another process sent as a `Problem`."""
    cls = _BY_STATUS.get(problem.status, ServiceError)
    return cls(problem.detail, errors=problem.errors, retry_after=retry_after)

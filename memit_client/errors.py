"""Everything that the client raises of itself.

MemitError
├── ConnectionFailed          nothing answers at the URL, or it broke off
├── UnexpectedAnswer          what answers there is not this service
├── Refused                   the service refused: status, title, detail, errors, retry_after
│   ├── InvalidRequest        400, 413, 415, 422: `errors` names each field and the reason
│   ├── Unauthorized          401: the service asks for a key, and this is none that is valid
│   ├── Forbidden             403: the key may not do this
│   ├── NotFound              404
│   ├── Conflict              409: the present state refuses it
│   ├── PreconditionFailed    412, 428: the alias is at another epoch, or its epoch must be given
│   ├── TooManyRequests       429: a queue is full, or the key has used its minute
│   └── Unavailable           503: no worker, no Redis; `errors` of `ready` names what is missing;
│                             502, 504: a proxy does not reach the service
├── NotCommitted              an edit that was waited for ended otherwise: edit, problem
│   ├── EditRejected          its gate refused the version, which is kept and not activated
│   ├── EditFailed
│   └── EditCancelled
└── WaitTimeout               the edit has not ended yet; it goes on
"""

from __future__ import annotations

from memit_client.edits import Edit
from memit_client.problems import FieldError, Problem


class MemitError(Exception):
    """Base of all."""


class ConnectionFailed(MemitError):
    """`sent` is False where the service cannot have seen the request."""

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent


class UnexpectedAnswer(MemitError):
    """The answer is not as this service's are."""


class Refused(MemitError):
    """An answer of 400 or more; of a status that has no class of its own, this one."""

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(f"{problem.title} ({problem.status}): {problem.detail}")
        self.problem = problem
        self.retry_after = retry_after
        """Seconds after which the service asks to try again."""

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def title(self) -> str:
        return self.problem.title

    @property
    def detail(self) -> str:
        return self.problem.detail

    @property
    def errors(self) -> list[FieldError]:
        """One a wrong field; empty where it is not a matter of fields."""
        return self.problem.errors


class InvalidRequest(Refused):
    pass


class Unauthorized(Refused):
    pass


class Forbidden(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class PreconditionFailed(Refused):
    pass


class TooManyRequests(Refused):
    pass


class Unavailable(Refused):
    pass


class NotCommitted(MemitError):
    """`edit` as it ended, with its report where it has one."""

    def __init__(self, edit: Edit) -> None:
        super().__init__(
            f"{edit.id} is {edit.state}: {edit.problem.detail if edit.problem else ''}"
        )
        self.edit = edit

    @property
    def problem(self) -> Problem | None:
        """Why."""
        return self.edit.problem


class EditRejected(NotCommitted):
    pass


class EditFailed(NotCommitted):
    pass


class EditCancelled(NotCommitted):
    pass


class WaitTimeout(MemitError, TimeoutError):
    """`edit_id` names the edit, to wait for it again."""

    def __init__(self, edit_id: str, seconds: float) -> None:
        super().__init__(f"{edit_id} has not ended within {seconds:g} s; it goes on")
        self.edit_id = edit_id


_BY_STATUS: dict[int, type[Refused]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    428: PreconditionFailed,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_BY_STATE: dict[str, type[NotCommitted]] = {
    "rejected": EditRejected,
    "failed": EditFailed,
    "cancelled": EditCancelled,
}


def refusal(problem: Problem, retry_after: float | None = None) -> Refused:
    """The error for a problem, by its status."""
    return _BY_STATUS.get(problem.status, Refused)(problem, retry_after)


def committed(edit: Edit) -> Edit:
    """An edit that has ended, if it was committed.

    Raises:
        NotCommitted: it was not.
    """
    if edit.state != "committed":
        raise _BY_STATE.get(edit.state, NotCommitted)(edit)
    return edit

"""The error tree of the method.

MemitError
├── UnsupportedModel   the model cannot be edited; the message says what was not found
├── InvalidFact        a fact cannot be written into this model; names the fact and the reason
├── UnknownOption      an edit gives its method an option that the method does not have
├── OutOfMemory        the device's memory does not hold the least that can be done at a time
├── NonFinite          a computed quantity is NaN or infinite; names the facts it came from
└── Cancelled          the caller asked to stop between two steps
"""

from __future__ import annotations

from collections.abc import Sequence


class MemitError(Exception):
    """Base of every error that this package raises on purpose."""

    @property
    def plain(self) -> str:
        """The message without texts of facts, for logs."""
        return str(self)


class UnsupportedModel(MemitError):
    pass


class InvalidFact(MemitError):
    """A fact cannot be written; `field` is the part of it that is wrong."""

    def __init__(self, reason: str, *, subject: str, field: str, limit: int | None = None) -> None:
        super().__init__(f"fact about {subject!r}: {field} {reason}")
        self.reason = reason
        self.subject = subject
        self.field = field
        self.limit = limit

    @property
    def plain(self) -> str:
        return f"a fact cannot be written, because of its {self.field}"


class UnknownOption(MemitError):
    pass


class OutOfMemory(MemitError):
    """Memory ran out at `stage`, with as little at a time as is possible."""

    def __init__(self, stage: str, subjects: Sequence[str] = ()) -> None:
        about = f" for {', '.join(map(repr, subjects))}" if subjects else ""
        super().__init__(
            f"out of memory at stage {stage}{about}: free some on the device, or use a larger one"
        )
        self.stage = stage
        self.subjects = tuple(subjects)

    @property
    def plain(self) -> str:
        return f"out of memory at stage {self.stage}"


class NonFinite(MemitError):
    """NaN or infinity appeared; `subjects` are those whose optimisation it came from."""

    def __init__(self, what: str, subjects: Sequence[str] = ()) -> None:
        about = f" for {', '.join(map(repr, subjects))}" if subjects else ""
        super().__init__(f"{what} is not finite{about}")
        self.what = what
        self.subjects = tuple(subjects)

    @property
    def plain(self) -> str:
        return f"{self.what} is not finite for {len(self.subjects)} subjects"


class Cancelled(MemitError):
    pass

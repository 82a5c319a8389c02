"""What a validator raises when a value is wrong."""

from __future__ import annotations

from pydantic_core import PydanticCustomError


def refusal(reason: str) -> PydanticCustomError:
    """A ValueError for validators of values that come by the thousand.

    Pydantic keeps a plain ValueError with its traceback, and so all frames below it: one bad batch
    would leave many thousand objects that only a full garbage collection frees.
    """
    return PydanticCustomError("value_error", "{error}", {"error": reason})

"""Errors in words for logs: without the texts that clients sent.

An error of ours whose message quotes a fact or a prompt says the rest of it in `plain`. Errors of
pydantic and FastAPI, which quote what they were given, are told by their fields alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

FIELDS_SHOWN = 3


def plain(error: BaseException) -> str:
    """The message of `error` without texts of clients."""
    own = getattr(error, "plain", None)
    if isinstance(own, str):
        return own
    fields = getattr(error, "errors", None)
    if callable(fields):
        return _fields(fields())
    return str(error)


def plain_traceback(error: BaseException) -> str:
    """As Python shows it, with what led to it, each message as `plain` has it."""
    return "".join(_lines(error, set())).rstrip("\n")


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause, context = error.__cause__, error.__context__
    if cause is not None and id(cause) not in seen:
        yield from _lines(cause, seen)
        yield "\nThe above exception was the direct cause of the following exception:\n\n"
    elif context is not None and not error.__suppress_context__ and id(context) not in seen:
        yield from _lines(context, seen)
        yield "\nDuring handling of the above exception, another exception occurred:\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    kind, message = type(error), plain(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    yield (
        f"{module}{kind.__qualname__}: {message}\n" if message else f"{module}{kind.__qualname__}\n"
    )
    if isinstance(error, BaseExceptionGroup):
        for number, one in enumerate(error.exceptions, 1):
            yield f"  {number} of {len(error.exceptions)}:\n"
            for part in _lines(one, seen):
                yield from (f"  {line}\n" for line in part.splitlines())


def _fields(errors: object) -> str:
    """Where pydantic found something wrong, and what kind of wrong it is."""
    found = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    shown = [
        f"{'/'.join(str(part) for part in one.get('loc', ()))} ({one.get('type')})".strip()
        for one in found[:FIELDS_SHOWN]
    ]
    if len(found) > FIELDS_SHOWN:
        shown.append(f"{len(found) - FIELDS_SHOWN} more")
    return "not valid: " + ", ".join(shown)

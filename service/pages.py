"""Lists page by page: newest first, by an opaque cursor."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Callable, Iterable
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from contracts.damage import Damaged
from contracts.errors import FieldError, NotFound
from contracts.limits import MAX_PAGE
from registry.errors import RegistryError, StorageError
from registry.kinds import explained, file_of
from service.problems import invalid

log = logging.getLogger(__name__)

T = TypeVar("T")
Position = list[str | int]

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="items a page", examples=[20])]
Cursor = Annotated[
    str | None,
    Query(max_length=500, description="`next_cursor` of the page before", examples=[None]),
]


class Page(BaseModel, Generic[T]):
    """A page of a list; without `next_cursor` it is the last."""

    items: list[T]
    next_cursor: str | None = Field(
        default=None,
        description="give it as `cursor` for the next page",
        examples=["WyJlZGl0cyIsN10"],
    )


class WholePage(Page[T], Generic[T]):
    """A page that says what it has to leave out: nothing, unless a file is damaged."""

    damaged: list[Damaged] = Field(
        default_factory=list, description="items of this page that cannot be read"
    )


def readable(
    ids: Iterable[str], read: Callable[[str], T], lost: Iterable[RegistryError] = ()
) -> tuple[list[T], list[Damaged]]:
    """What can be read of `ids`, and what is wrong with the others and with what is `lost`.

    Raises:
        StorageError: the storage fails.
    """
    items, damaged = [], [_damaged(None, error) for error in lost]
    for one in ids:
        try:
            items.append(read(one))
        except StorageError:
            raise
        except (NotFound, RegistryError) as error:
            log.error("%s is listed as damaged: %s", one, error)
            damaged.append(_damaged(one, error))
    return items, damaged


def _damaged(one: str | None, error: RegistryError | NotFound) -> Damaged:
    if isinstance(error, NotFound):  # a file that is left names one that is gone
        return Damaged(id=one, file=None, reason=error.detail)
    return Damaged(id=one, file=file_of(error), reason=explained(error))


def encode_cursor(kind: str, position: Position | None) -> str | None:
    """A cursor that `decode_cursor` with the same `kind` turns into `position` again."""
    if position is None:
        return None
    return base64.urlsafe_b64encode(json.dumps([kind, *position]).encode()).decode().rstrip("=")


def decode_cursor(kind: str, cursor: str, types: tuple[type, ...]) -> Position:
    """The position in `cursor`.

    Raises:
        InvalidRequest: it is no cursor of a list of this `kind`.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or [type(part) for part in found] != [str, *types]:
        found = [None]
    name, *position = found
    if name != kind:
        raise invalid([FieldError(field="cursor", reason=f"is no next_cursor of a list of {kind}")])
    return position

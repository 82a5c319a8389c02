"""How a record becomes bytes and back: canonical JSON of a pydantic model."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from contracts.ids import canonical_json
from registry.errors import RecordDamaged
from registry.store import Store

R = TypeVar("R", bound=BaseModel)


def encode_record(record: BaseModel) -> bytes:
    """The record's bytes on disk; equal records give equal bytes."""
    return canonical_json(record.model_dump(mode="json"))


def decode_record(kind: type[R], key: str, data: bytes) -> R:
    """The record in `data`.

    Raises:
        RecordDamaged: it is not JSON of this kind; the message names `key`.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise RecordDamaged(key, f"not a {kind.__name__}: {first}") from error


def read_record(store: Store, kind: type[R], key: str) -> R | None:
    """The record under `key`; None if there is none.

    Raises:
        RecordDamaged: see `decode_record`.
    """
    data = store.get(key)
    return None if data is None else decode_record(kind, key, data)

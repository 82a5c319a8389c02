"""How a record becomes bytes and back: canonical JSON of a pydantic model, sealed by its digest.

The seal is the first field, the SHA-256 of the record without it: a flipped bit is found where JSON
alone would be read as another record. Records of earlier releases have none and are read as they
are; earlier releases ignore the field.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from contracts.ids import canonical_json
from registry.errors import RecordDamaged
from registry.store import Store

R = TypeVar("R", bound=BaseModel)

_SEAL = b'{"digest":"'
_END = len(_SEAL) + 64


def encode_record(record: BaseModel) -> bytes:
    """The record's bytes on disk; equal records give equal bytes."""
    plain = encode_plain(record)
    return _SEAL + hashlib.sha256(plain).hexdigest().encode() + b'",' + plain[1:]


def encode_plain(record: BaseModel) -> bytes:
    """The same without a seal, for what is named by its digest."""
    return canonical_json(record.model_dump(mode="json"))


def decode_record(kind: type[R], key: str, data: bytes) -> R:
    """The record in `data`.

    Raises:
        RecordDamaged: it is not JSON of this kind, or not as it was sealed; the message names
            `key`.
    """
    if not data:
        raise RecordDamaged(key, "it is empty")
    try:
        record = kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]["msg"]
        # The error quotes what it was given: it must not be shown with this one.
        raise RecordDamaged(key, f"not a {kind.__name__}: {first}") from None
    if data.startswith(_SEAL):
        plain = b"{" + data[_END + 2 :]
        if hashlib.sha256(plain).hexdigest().encode() != data[len(_SEAL) : _END]:
            raise RecordDamaged(key, "its bytes have another digest than when it was written")
    return record


def read_record(store: Store, kind: type[R], key: str) -> R | None:
    """The record under `key`; None if there is none.

    Raises:
        RecordDamaged: see `decode_record`.
    """
    data = store.get(key)
    return None if data is None else decode_record(kind, key, data)

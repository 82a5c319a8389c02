"""Ids: how each is made and the pattern that every id from outside must match.

Ids are never used as paths before they matched their pattern.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import StringConstraints

EDIT_ID = re.compile(r"^edit-[0-9a-f]{20}$")
FACT_ID = re.compile(r"^fact-[0-9a-f]{20}$")
VERSION_ID = re.compile(r"^v(0|[1-9][0-9]{0,8})-[0-9a-f]{12}$")
VERSION_SHORT = re.compile(r"^v(0|[1-9][0-9]{0,8})$")
ALIAS_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")
KEY_ID = re.compile(r"^key-[0-9a-f]{16}$")
WEBHOOK_ID = re.compile(r"^webhook-[0-9a-f]{16}$")
EVENT_ID = re.compile(r"^event-[0-9a-f]{20}$")
DIGEST = re.compile(r"^[0-9a-f]{64}$")

EditId = Annotated[str, StringConstraints(pattern=EDIT_ID.pattern)]
FactId = Annotated[str, StringConstraints(pattern=FACT_ID.pattern)]
VersionId = Annotated[str, StringConstraints(pattern=VERSION_ID.pattern)]
AliasName = Annotated[str, StringConstraints(pattern=ALIAS_NAME.pattern)]
KeyId = Annotated[str, StringConstraints(pattern=KEY_ID.pattern)]
WebhookId = Annotated[str, StringConstraints(pattern=WEBHOOK_ID.pattern)]
EventId = Annotated[str, StringConstraints(pattern=EVENT_ID.pattern)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST.pattern)]


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of(value: Any) -> str:
    """SHA-256 in hex of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def drawn(ids: Iterable[str], count: int, seed: str) -> list[str]:
    """At most `count` of the ids, by the SHA-256 of `seed` and id: the same ones every time."""
    return sorted(ids, key=lambda one: digest_of([seed, one]))[:count]


def new_edit_id() -> str:
    """A fresh random edit id."""
    return f"edit-{secrets.token_hex(10)}"


def version_seq(version: str) -> int:
    """The sequence number in a version's id, full or short."""
    return int(version[1:].partition("-")[0])


def version_id(seq: int, manifest_digest: str) -> str:
    """`v12-9f3c2a71b0de`: sequence number and the first 12 hex of the manifest's digest."""
    return f"v{seq}-{manifest_digest[:12]}"

"""Keys of the API: what one may do, and what is kept and shown of it; never its secret."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contracts.ids import AliasName, Digest, KeyId
from contracts.limits import MAX_KEY_ALIASES, MAX_KEY_NAME_CHARS, MAX_RATE

LOCAL = "local"
"""The principal of a request that needed no key."""


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    """Look at facts, edits, versions, aliases and metrics; download versions."""
    GENERATE = "generate"
    """Ask versions, and list the models of `/v1`."""
    EDIT = "edit"
    """Post and cancel edits, retract facts, move aliases; includes both above."""
    ADMIN = "admin"
    """Make and revoke keys, read the audit log, make webhooks; includes all."""


_INCLUDED = {
    Scope.EDIT: (Scope.READ, Scope.GENERATE),
    Scope.ADMIN: (Scope.READ, Scope.GENERATE, Scope.EDIT),
}


def with_included(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes, and those that they include."""
    given = frozenset(scopes)
    return given.union(*(_INCLUDED.get(scope, ()) for scope in given))


class KeyGrant(BaseModel):
    """What a key is given."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(
        description="for people: whose it is, or what for", examples=["chat frontend"]
    )
    scopes: list[Scope] = Field(
        min_length=1,
        description="read: look; generate: ask; edit: both, and write; admin: all, and keys",
        examples=[["generate"]],
    )
    aliases: list[AliasName] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_KEY_ALIASES,
        description="the only aliases that it may ask and move; an edit moves `active`",
        examples=[["active"]],
    )
    expires_at: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="unix seconds", examples=[1826913600.0]
    )
    requests_per_minute: int | None = Field(default=None, ge=1, le=MAX_RATE, examples=[600])
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=MAX_RATE,
        description="of generations, prompts and answers together",
        examples=[100_000],
    )


class KeyRequest(KeyGrant):
    """Body of `POST /keys`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"name": "chat frontend", "scopes": ["generate"]}]},
    )

    name: str = Field(
        min_length=1,
        max_length=MAX_KEY_NAME_CHARS,
        description="for people: whose it is, or what for",
        examples=["chat frontend"],
    )

    @field_validator("name")
    @classmethod
    def _in_a_line(cls, name: str) -> str:
        if not name.isprintable() or not name.strip():
            raise ValueError("must be printable, in one line and not blank")
        return name

    @field_validator("aliases")
    @classmethod
    def _not_for_admins(cls, aliases: list[str] | None, info: object) -> list[str] | None:
        # A key that makes others would make itself one without the limit.
        scopes = getattr(info, "data", {}).get("scopes", ())
        if aliases is not None and Scope.ADMIN in scopes:
            raise ValueError("cannot limit a key with the scope admin")
        return aliases


class KeyRecord(KeyGrant):
    """A key as the registry keeps it; immutable."""

    id: KeyId
    digest: Digest = Field(description="SHA-256 of the key", repr=False)
    created_at: float = Field(description="unix seconds")
    created_by: str = Field(description="id of a key, or `local`")


class Revocation(BaseModel):
    """Ends a key for good."""

    model_config = ConfigDict(frozen=True)

    at: float = Field(description="unix seconds")
    by: str = Field(description="id of a key, or `local`")


class Key(KeyGrant):
    """A key as clients see it."""

    id: KeyId = Field(examples=["key-0123456789abcdef"])
    created_at: float = Field(description="unix seconds", examples=[1795377600.0])
    created_by: str = Field(description="id of a key, or `local`", examples=["local"])
    revoked_at: float | None = Field(default=None, description="unix seconds", examples=[None])
    revoked_by: str | None = Field(default=None, examples=[None])


class NewKey(Key):
    """A key that was just made; nothing can show `key` again."""

    key: str = Field(
        repr=False,
        description="send it as `Authorization: Bearer ...`",
        examples=["memit_0123456789abcdef_<64 hex digits>"],
    )

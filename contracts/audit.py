"""The audit log: who changed what, in records that are chained by their digests."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import Digest

FIRST = "0" * 64
"""What the first record follows."""


class AuditAction(StrEnum):
    """What was done."""

    EDIT_ACCEPTED = "edit.accepted"
    CANCEL_REQUESTED = "edit.cancel_requested"
    EDIT_ENDED = "edit.ended"
    ALIAS_MOVED = "alias.moved"
    KEY_MADE = "key.made"
    KEY_REVOKED = "key.revoked"
    WEBHOOK_MADE = "webhook.made"
    WEBHOOK_ENDED = "webhook.ended"


class Change(BaseModel):
    """What one record of the registry says was done."""

    model_config = ConfigDict(frozen=True)

    action: AuditAction = Field(examples=["alias.moved"])
    subject: str = Field(
        description="id of the edit, key or webhook, or name of the alias", examples=["active"]
    )
    principal: str | None = Field(
        description="id of a key, `local`, or of the edit that did it; none: not known",
        examples=["key-0123456789abcdef"],
    )
    at: float = Field(description="unix seconds", examples=[1795377620.0])
    detail: str = Field(description="in words", examples=["epoch 3: v12-9f3c2a71b0de"])


class AuditRecord(Change):
    """One record of the log."""

    number: int = Field(description="from 0, without gaps", examples=[41])
    source: str = Field(
        description="the record of the registry that says so", examples=["aliases/active/3.json"]
    )
    digest: Digest = Field(description="SHA-256 of the source", examples=["5f" * 32])
    previous: Digest = Field(description="SHA-256 of the record before", examples=["ab" * 32])


class AuditFault(BaseModel):
    """Something in the log that is not as it was written."""

    model_config = ConfigDict(frozen=True)

    number: int
    reason: str

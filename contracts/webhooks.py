"""Webhooks: who is told of which events, what is sent, and what came of it; never the secret."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, field_validator

from contracts.ids import AliasName, EditId, EventId, VersionId, WebhookId
from contracts.limits import MAX_WEBHOOK_ALIASES, MAX_WEBHOOK_URL_CHARS

_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


class EventType(StrEnum):
    """What happened."""

    EDIT_COMMITTED = "edit.committed"
    EDIT_REJECTED = "edit.rejected"
    EDIT_FAILED = "edit.failed"
    EDIT_CANCELLED = "edit.cancelled"
    ALIAS_MOVED = "alias.moved"
    PING = "ping"
    """Sent by `POST /webhooks/{id}/test` alone."""


ALL_EVENTS: list[EventType] = [one for one in EventType if one is not EventType.PING]


class WebhookRequest(BaseModel):
    """Body of `POST /webhooks`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"url": "https://example.com/memit", "events": ["edit.committed"]}]
        },
    )

    url: str = Field(
        max_length=MAX_WEBHOOK_URL_CHARS,
        description="where events are posted: http or https, without user, password and fragment",
        examples=["https://example.com/memit"],
    )
    events: list[EventType] = Field(
        default_factory=lambda: list(ALL_EVENTS),
        min_length=1,
        max_length=len(ALL_EVENTS),
        description="which events; by default all",
        examples=[["edit.committed", "alias.moved"]],
    )
    aliases: list[AliasName] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_WEBHOOK_ALIASES,
        description="the only aliases whose moves are told; edits are told all the same",
        examples=[["active"]],
    )

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        """As browsers read it, so that `http://0x7f.1` is seen for what it is."""
        try:
            read = _URL.validate_python(url)
        except ValueError:
            raise ValueError("must be a URL with http or https") from None
        if read.username is not None or read.password is not None:
            raise ValueError("must have no user and password in it")
        if read.fragment is not None:
            raise ValueError("must have no fragment (#...)")
        if len(str(read)) > MAX_WEBHOOK_URL_CHARS:
            raise ValueError(f"must have at most {MAX_WEBHOOK_URL_CHARS} characters when escaped")
        return str(read)

    @field_validator("events")
    @classmethod
    def _of_the_service(cls, events: list[EventType]) -> list[EventType]:
        if EventType.PING in events:
            raise ValueError("ping is sent by POST /webhooks/{id}/test alone")
        return [one for one in EventType if one in events]


class _Target(BaseModel):
    """What a webhook was made for."""

    model_config = ConfigDict(frozen=True)

    id: WebhookId = Field(examples=["webhook-0123456789abcdef"])
    url: str = Field(examples=["https://example.com/memit"])
    events: list[EventType] = Field(examples=[["edit.committed", "alias.moved"]])
    aliases: list[AliasName] | None = Field(default=None, examples=[["active"]])
    created_at: float = Field(description="unix seconds", examples=[1795377600.0])
    created_by: str = Field(description="id of a key, or `local`", examples=["local"])


class WebhookRecord(_Target):
    """A webhook as the registry keeps it; immutable."""

    secret: str = Field(repr=False, description="signs what is sent")
    after: int = Field(description="number in the audit log that was the newest when it was made")


class WebhookEnd(BaseModel):
    """Ends a webhook for good."""

    model_config = ConfigDict(frozen=True)

    at: float = Field(description="unix seconds")
    by: str = Field(description="id of a key, or `local`; of `gone` the webhook's own")
    reason: Literal["deleted", "gone"] = Field(description="gone: its receiver answered 410")


class Webhook(_Target):
    """A webhook as clients see it."""

    ended_at: float | None = Field(default=None, description="unix seconds", examples=[None])
    ended_by: str | None = Field(default=None, examples=[None])
    ended: Literal["deleted", "gone"] | None = Field(
        default=None,
        description="why nothing is sent any more; gone: its receiver answered 410",
        examples=[None],
    )


class NewWebhook(Webhook):
    """A webhook that was just made; nothing shows `secret` again."""

    secret: str = Field(
        repr=False,
        description="signs what is sent; give it to the receiver",
        examples=["whsec_<44 characters>"],
    )


class DeliveryState(StrEnum):
    """What came of an attempt."""

    DELIVERED = "delivered"
    RETRYING = "retrying"
    GIVEN_UP = "given_up"
    GONE = "gone"
    """The receiver answered 410: the webhook is over."""


class Sent(BaseModel):
    """What came back of one request."""

    model_config = ConfigDict(frozen=True)

    event: EventId = Field(
        description="its `webhook-id`, the same in every attempt",
        examples=["event-0123456789abcdef0123"],
    )
    type: EventType = Field(examples=["edit.committed"])
    at: float = Field(description="unix seconds", examples=[1795377620.0])
    seconds: float = Field(description="that it took", examples=[0.12])
    delivered: bool = Field(examples=[True])
    status: int | None = Field(
        default=None, description="that the receiver answered", examples=[204]
    )
    reason: str | None = Field(
        default=None, description="why it was not delivered", examples=[None]
    )


class Delivery(Sent):
    """One attempt to deliver an event."""

    attempt: int = Field(description="from 1", examples=[1])
    state: DeliveryState = Field(examples=["delivered"])
    next_at: float | None = Field(
        default=None, description="unix seconds of the next attempt", examples=[None]
    )


class DeliveryRecord(Delivery):
    """An attempt as the registry keeps it, with what a process that starts must know."""

    number: int = Field(description="the event's number in the audit log")
    settled: int = Field(description="number up to which every event needs no further attempt")
    since: int = Field(description="record of this log from which on those above it are told")


class EditEventData(BaseModel):
    """What an event tells of an edit: ids and figures, no text of a fact."""

    id: EditId
    version: VersionId | None
    activated: bool
    principal: str | None
    accepted_at: float
    ended_at: float | None
    facts: int
    retracted: int
    missed: int
    dropped: int
    success: float | None = None
    efficacy: float | None = None
    paraphrase: float | None = None
    specificity: float | None = None
    perplexity_ratio: float | None = None
    kl: float | None = None
    problem: str | None = Field(default=None, description="type of the problem")


class AliasEventData(BaseModel):
    """What an event tells of the move of an alias."""

    name: AliasName
    epoch: int
    version: VersionId
    split: dict[VersionId, int] | None
    edit_id: EditId | None
    principal: str | None
    at: float

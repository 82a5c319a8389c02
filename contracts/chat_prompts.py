"""Chats by which a fact is measured: whether it is also known when a user asks it in one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from contracts.chats import Message
from contracts.limits import MAX_CHAT_MESSAGES, MAX_PROMPT_CHARS
from contracts.refusal import refusal

CHAT_EXAMPLE: list[Any] = [{"role": "user", "content": "Where is the Eiffel Tower?"}]


def not_blank(text: str) -> str:
    """The text; ValueError if it is nothing but blanks."""
    if not text.strip():
        raise refusal("must not be blank")
    return text


class ChatMessage(Message):
    """One turn of a chat that a fact is asked in."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": CHAT_EXAMPLE}
    )

    content: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS),
        AfterValidator(not_blank),
    ] = Field(examples=["Where is the Eiffel Tower?"])


def _ends_with_the_user(messages: list[ChatMessage]) -> list[ChatMessage]:
    if messages[-1].role != "user":
        raise refusal(f"must end with the user's turn, ends with the {messages[-1].role}'s")
    return messages


ChatPrompt = Annotated[
    list[ChatMessage],
    Field(min_length=1, max_length=MAX_CHAT_MESSAGES),
    AfterValidator(_ends_with_the_user),
]

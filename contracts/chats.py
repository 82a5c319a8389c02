"""Chats, as they go into a model's own chat template."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from contracts.limits import MAX_GENERATE_CHARS, MAX_MESSAGES


class Message(BaseModel):
    """One turn of a chat, for the model's own chat template."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="a developer is a system to templates that do not know the role",
        examples=["user"],
    )
    content: str = Field(
        max_length=MAX_GENERATE_CHARS, examples=["Where is the Eiffel Tower located?"]
    )


def _within_limit(messages: list[Message]) -> list[Message]:
    if sum(len(message.content) for message in messages) > MAX_GENERATE_CHARS:
        raise ValueError(f"must have at most {MAX_GENERATE_CHARS} characters together")
    return messages


Messages = Annotated[
    list[Message],
    Field(min_length=1, max_length=MAX_MESSAGES),
    AfterValidator(_within_limit),
]


def _ends_with_the_assistant(going_on: bool, info: ValidationInfo) -> bool:
    messages: list[Message] | None = info.data.get("messages", [])
    if going_on and messages != [] and (messages is None or messages[-1].role != "assistant"):
        raise ValueError("needs messages that end with an assistant's turn")
    return going_on


ContinueFinalMessage = Annotated[bool, AfterValidator(_ends_with_the_assistant)]
"""Needs `messages` before it that end with an assistant's turn."""

"""Generation: the client's request, the task an engine takes, and the events it writes back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from contracts.chats import ContinueFinalMessage, Message, Messages
from contracts.errors import Problem
from contracts.ids import VERSION_ID, VERSION_SHORT, VersionId
from contracts.keys import LOCAL
from contracts.limits import MAX_GENERATE_CHARS, MAX_PRIORITY, MAX_TASKS
from contracts.origin import Origin
from contracts.sampling import Sampling
from contracts.versions import ACTIVE

BEGINNINGS = ("prompt", "messages", "token_ids")
"""Fields of a task, of which it has one."""


class Handling(BaseModel):
    """How a request is handled, whatever it asks."""

    priority: int = Field(
        default=0,
        ge=-MAX_PRIORITY,
        le=MAX_PRIORITY,
        description="of a key's requests that wait, the one with the lowest is next",
        examples=[0],
    )
    min_version: str | None = Field(
        default=None,
        description="refused rather than answered by an older version than this id or short id",
        examples=["v12"],
    )

    @field_validator("min_version")
    @classmethod
    def _is_an_id(cls, value: str | None) -> str | None:
        if value is not None and not (
            VERSION_ID.fullmatch(value) or VERSION_SHORT.fullmatch(value)
        ):
            raise ValueError("must be a version's id or short id, as in v12")
        return value


class GenerateRequest(Sampling, Handling):
    """Body of `POST /generate`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "The Eiffel Tower is located in the city of", "max_tokens": 8},
                {"prompt": "The Eiffel Tower is in", "version": "v0", "stream": True},
                {
                    "prompt": "The Eiffel Tower is in",
                    "temperature": 0.8,
                    "top_p": 0.95,
                    "seed": 7,
                    "n": 2,
                    "logprobs": 3,
                },
                {
                    "messages": [{"role": "user", "content": "Where is the Eiffel Tower?"}],
                    "versions": ["v0", "active"],
                },
            ]
        },
    )

    prompt: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_GENERATE_CHARS,
        description="a text to go on from; either this or `messages`",
        examples=["The Eiffel Tower is located in the city of"],
    )
    messages: Messages | None = Field(
        default=None,
        description="a chat to answer, in the model's own chat template",
        examples=[[{"role": "user", "content": "Where is the Eiffel Tower located?"}]],
    )
    continue_final_message: ContinueFinalMessage = Field(
        default=False, description="go on with the assistant's turn that ends `messages`"
    )
    version: str = Field(
        default=ACTIVE, description="version id, short id or alias", examples=["active"]
    )
    versions: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TASKS,
        description="ask each of these instead of `version`; the answers come side by side",
        examples=[["v0", "active"]],
    )
    stream: bool = Field(default=False, description="answer as server-sent events")

    @model_validator(mode="after")
    def _one_question(self) -> GenerateRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("exactly one of prompt and messages is required")
        if self.versions is not None and "version" in self.model_fields_set:
            raise ValueError("version and versions exclude each other")
        return self


class GenerateTask(BaseModel):
    """What travels to an engine; `version` is resolved: that is the pin.

    What it goes on from is exactly one of a text, a chat, and token ids.
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    principal: str = Field(default=LOCAL, description="id of the key that asks; never the key")
    prompt: str | None = None
    messages: list[Message] | None = None
    token_ids: list[int] | None = None
    continue_final_message: bool = Field(
        default=False, description="go on with the assistant's turn that ends the messages"
    )
    version: VersionId
    sampling: Sampling
    cut_to_fit: bool = Field(
        default=False, description="`max_tokens` gives way where prompt and answer do not fit"
    )
    priority: int = Field(default=0, description="of its principal's, the lowest is next")
    deadline: float = Field(description="unix seconds after which nobody waits for a start")
    sent_at: float = Field(default=0.0, description="unix seconds")
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _one_beginning(self) -> GenerateTask:
        given = [name for name in BEGINNINGS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must have exactly one of {', '.join(BEGINNINGS)}, has {given}")
        return self


class Usage(BaseModel):
    model_config = ConfigDict(frozen=True)

    prompt_tokens: int = Field(examples=[10])
    completion_tokens: int = Field(examples=[8])


FinishReason = Literal["stop", "length"]


class TakenEvent(BaseModel):
    """An engine took the task off the queue: if that worker dies, nobody else has it."""

    type: Literal["taken"] = "taken"
    worker: str


class StartEvent(BaseModel):
    """The engine admitted the request."""

    type: Literal["start"] = "start"
    id: str
    version: VersionId
    worker: str


class TokenLogprob(BaseModel):
    """One token and its log-probability in nats, with the likeliest ones in its place."""

    token: str = Field(
        description="its own text; special tokens by name, a part of a character as \ufffd",
        examples=[" Rome"],
    )
    token_id: int = Field(examples=[7733])
    logprob: float = Field(description="nats", examples=[-0.11])
    top: list[TokenLogprob] = Field(
        default_factory=list,
        description="the likeliest tokens in its place, the likeliest first",
        examples=[[{"token": " Rome", "token_id": 7733, "logprob": -0.11, "top": []}]],
    )

    @property
    def is_part(self) -> bool:
        """It is a part of a character, without text of its own."""
        return "\N{REPLACEMENT CHARACTER}" in self.token


class TokenEvent(BaseModel):
    """More text of one choice; never half a character.

    The text is empty only where an answer ends in tokens without text of their own, and their
    log-probabilities were asked for.
    """

    type: Literal["token"] = "token"
    choice: int = 0
    text: str
    logprobs: list[TokenLogprob] | None = Field(
        default=None, description="of the tokens that the text is of, where they were asked for"
    )


class EndEvent(BaseModel):
    """One choice is complete."""

    type: Literal["end"] = "end"
    choice: int = 0
    version: VersionId
    finish_reason: FinishReason
    usage: Usage


class ErrorEvent(BaseModel):
    """The engine refused or lost the request."""

    type: Literal["error"] = "error"
    problem: Problem
    elsewhere: bool = Field(
        default=False, description="only this worker cannot: it stops, or its device is broken"
    )


GenerateEvent = Annotated[
    StartEvent | TokenEvent | EndEvent | ErrorEvent, Field(discriminator="type")
]
EngineEvent = Annotated[TakenEvent | GenerateEvent, Field(discriminator="type")]
"""What an engine writes to a request's stream."""


class Choice(BaseModel):
    """One of several answers to a prompt."""

    index: int = Field(ge=0, examples=[0])
    text: str = Field(description="the continuation, without the prompt", examples=[" Rome."])
    finish_reason: FinishReason = Field(examples=["length"])
    logprobs: list[TokenLogprob] | None = Field(
        default=None, description="of the text's tokens, where they were asked for"
    )


class Generation(BaseModel):
    """Answer of `POST /generate` when it is not streamed."""

    id: str = Field(examples=["gen-5b1f0c9a8d7e6f5a4b3c"])
    text: str = Field(description="the continuation, without the prompt", examples=[" Rome."])
    version: VersionId = Field(examples=["v1-9f3c2a71b0de"])
    finish_reason: FinishReason = Field(examples=["length"])
    usage: Usage = Field(description="the prompt's tokens once, and those of all choices")
    logprobs: list[TokenLogprob] | None = Field(
        default=None, description="of the text's tokens, where they were asked for"
    )
    choices: list[Choice] | None = Field(
        default=None,
        description="all answers by index where `n` is over 1; the text above is the first one's",
    )


class Generations(BaseModel):
    """Answer of `POST /generate` with `versions` when it is not streamed."""

    answers: list[Generation] = Field(
        description="one for each of the request's versions, in their order"
    )

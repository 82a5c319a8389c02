"""Generation: the client's request, the task an engine takes, and the events it writes back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from contracts.errors import Problem
from contracts.ids import VersionId
from contracts.limits import (
    MAX_BIAS,
    MAX_CHOICES,
    MAX_GENERATE_CHARS,
    MAX_LOGIT_BIASES,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_NEW_TOKENS,
    MAX_PENALTY,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MAX_TASKS,
    MAX_TEMPERATURE,
    MAX_TOKEN_ID,
    MAX_TOP_K,
)
from contracts.versions import ACTIVE

BEGINNINGS = ("prompt", "messages", "token_ids")
"""Fields of a task, of which it has one."""

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]


class Sampling(BaseModel):
    """How to choose the next token; the default is greedy.

    The options apply in vLLM's order: biases and `min_tokens`, then penalties, temperature,
    `min_p`, `top_k`, `top_p`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(
        default=64,
        ge=1,
        le=MAX_NEW_TOKENS,
        validation_alias=AliasChoices("max_tokens", "max_new_tokens"),
        description="tokens to generate at most",
        examples=[32],
    )
    min_tokens: int = Field(
        default=0,
        ge=0,
        description="tokens before which no end of text and no stop ends the answer",
        examples=[0],
    )
    n: int = Field(
        default=1,
        ge=1,
        le=MAX_CHOICES,
        description="answers to give; number i, from 0, is that of the seed + i",
        examples=[1],
    )
    temperature: float = Field(
        default=0.0, ge=0, le=MAX_TEMPERATURE, description="0 is greedy", examples=[0]
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="only the likeliest tokens that have this probability together",
        examples=[1.0],
    )
    top_k: int = Field(
        default=0,
        ge=-1,
        le=MAX_TOP_K,
        description="only the k likeliest tokens; 0 and -1 are off",
        examples=[0],
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="only tokens with at least this part of the likeliest one's probability",
        examples=[0],
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="divides the logits of tokens in prompt and answer; 1 is off",
        examples=[1.0],
    )
    presence_penalty: float = Field(
        default=0.0,
        ge=-MAX_PENALTY,
        le=MAX_PENALTY,
        description="is taken from the logits of the answer's tokens",
        examples=[0],
    )
    frequency_penalty: float = Field(
        default=0.0,
        ge=-MAX_PENALTY,
        le=MAX_PENALTY,
        description="is taken from the logits of the answer's tokens, once for every occurrence",
        examples=[0],
    )
    logit_bias: dict[TokenId, Bias] = Field(
        default_factory=dict,
        max_length=MAX_LOGIT_BIASES,
        description="what to add to the logits of these tokens",
        examples=[{"2": -100}],
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="for repeatable sampling", examples=[7]
    )
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]] = Field(
        default_factory=list,
        max_length=MAX_STOP_STRINGS,
        description="generation ends before the first of these strings, which may be special "
        "tokens",
        examples=[["\n"]],
    )
    stop_token_ids: list[TokenId] = Field(
        default_factory=list,
        max_length=MAX_STOP_TOKENS,
        description="generation ends before the first of these tokens",
        examples=[[2]],
    )
    ignore_eos: bool = Field(
        default=False, description="go on after an end of text", examples=[False]
    )
    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="show each token's log-probability, and those of so many of the likeliest "
        "tokens in its place: as the model gives them, before all other options",
        examples=[2],
    )

    @field_validator("min_tokens")
    @classmethod
    def _within_max_tokens(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("max_tokens", value)
        if value > most:
            raise ValueError(f"must be at most max_tokens, which is {most}")
        return value


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


def final_message_goes_on(going_on: bool, info: ValidationInfo) -> bool:
    """Validator of `continue_final_message`, which needs an assistant's turn at the end.

    Raises:
        ValueError: there is none.
    """
    messages: list[Message] | None = info.data.get("messages", [])
    if going_on and messages != [] and (messages is None or messages[-1].role != "assistant"):
        raise ValueError("needs messages that end with an assistant's turn")
    return going_on


ContinueFinalMessage = Annotated[bool, AfterValidator(final_message_goes_on)]


class GenerateRequest(Sampling):
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

    id: str
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
    deadline: float = Field(description="unix seconds after which nobody waits for a start")

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


GenerateEvent = Annotated[
    StartEvent | TokenEvent | EndEvent | ErrorEvent, Field(discriminator="type")
]


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

"""Bodies of requests, as OpenAI's clients send them, with vLLM's further sampling options."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from contracts.chats import ContinueFinalMessage, Messages
from contracts.generation import Handling
from contracts.limits import (
    MAX_GENERATE_CHARS,
    MAX_LOGPROBS,
    MAX_NEW_TOKENS,
    MAX_TASKS,
    MAX_TEMPERATURE,
    MAX_TOKEN_ID,
)
from contracts.sampling import Sampling
from service.openai_api.refused import supported_only, without_nulls

Prompt = str | list[int]
SEEDS = 2**63


class StreamOptions(BaseModel):
    """What a stream shall have besides its text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: bool = Field(
        default=False, description="a last chunk has the tokens used", examples=[True]
    )
    include_obfuscation: bool = Field(default=False, description="without effect", examples=[False])

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return without_nulls(given)


class Asked(Sampling, Handling):
    """What both kinds of requests have."""

    temperature: float = Field(
        default=1.0, ge=0, le=MAX_TEMPERATURE, description="0 is greedy", examples=[0]
    )
    model: str | None = Field(
        default=None,
        description="`NAME` is what `active` names, `NAME@v12` a version, `NAME@base` the "
        "untouched model, `NAME@ALIAS` what an alias names; by default `NAME`",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct@v1"],
    )
    stream: bool = Field(default=False, description="answer as server-sent events")
    stream_options: StreamOptions | None = None
    user: str | None = Field(
        default=None, max_length=1_000, description="who asks, for an alias that is split"
    )

    @model_validator(mode="before")
    @classmethod
    def _supported_only(cls, body: Any) -> Any:
        return supported_only(body)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("seed", mode="before")
    @classmethod
    def _any_seed(cls, value: Any) -> Any:
        # OpenAI's are signed.
        small = isinstance(value, int) and -SEEDS <= value < 0
        return value + SEEDS if small else value

    @field_validator("stream_options")
    @classmethod
    def _of_a_stream(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("stream") is False:
            raise ValueError("goes with stream only")
        return value

    @property
    def sampling(self) -> Sampling:
        """How to choose tokens."""
        return Sampling(**self.model_dump(include=set(Sampling.model_fields)))

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the tokens used."""
        return self.stream_options is not None and self.stream_options.include_usage


def _prompts(value: Any) -> list[Prompt]:
    """One prompt or several, each a text or token ids."""
    prompts = value if isinstance(value, list) and not _is_tokens(value) else [value]
    if not prompts:
        raise ValueError("must not be empty")
    if len(prompts) > MAX_TASKS:
        raise ValueError(f"must have at most {MAX_TASKS} prompts, has {len(prompts)}")
    for prompt in prompts:
        if not (isinstance(prompt, str) or _is_tokens(prompt)):
            raise ValueError("must be a string, a list of strings, token ids, or a list of those")
        if not prompt:
            raise ValueError("must not be empty")
        if isinstance(prompt, str) and not _is_unicode(prompt):
            raise ValueError("must be valid Unicode text, without lone surrogates")
        if isinstance(prompt, list) and not all(0 <= token <= MAX_TOKEN_ID for token in prompt):
            raise ValueError(f"must have token ids from 0 to {MAX_TOKEN_ID}")
    if sum(map(len, prompts)) > MAX_GENERATE_CHARS:
        raise ValueError(f"must have at most {MAX_GENERATE_CHARS} characters or tokens together")
    return prompts


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


_TEXT = {"type": "string"}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_LISTS = [{"type": "array", "items": kind, "maxItems": MAX_TASKS} for kind in (_TEXT, _TOKENS)]
Prompts = Annotated[
    list[Prompt],
    PlainValidator(_prompts),
    WithJsonSchema({"anyOf": [_TEXT, _TOKENS, *_LISTS], "title": "Prompt"}),
]


class CompletionRequest(Asked):
    """Body of `POST /v1/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "The Eiffel Tower is located in the city of", "max_tokens": 8},
                {"prompt": ["Rome is", "Oslo is"], "n": 2, "seed": 7, "logprobs": 2},
            ]
        },
    )

    max_tokens: int = Field(
        default=16, ge=1, le=MAX_NEW_TOKENS, description="tokens to generate at most", examples=[8]
    )
    prompt: Prompts = Field(
        description="a text, token ids, or several of either, answered side by side",
        examples=["The Eiffel Tower is located in the city of"],
    )
    echo: bool = Field(default=False, description="the answer begins with the prompt")

    @field_validator("echo")
    @classmethod
    def _echoes_text(cls, value: bool, info: ValidationInfo) -> bool:
        prompts = info.data.get("prompt", [])
        if value and not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("goes with prompts that are texts, not token ids")
        if value and info.data.get("logprobs") is not None:
            raise ValueError("goes without logprobs: the prompt's tokens have none here")
        return value


def _texts_only(messages: Any) -> Any:
    """Messages whose content is one text: text parts are joined by line breaks, as vLLM does."""
    if not isinstance(messages, list):
        return messages
    return [_text_only(message) if isinstance(message, dict) else message for message in messages]


def _text_only(message: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in message.items() if value not in (None, [])}
    given.pop("name", None)
    content = given.get("content")
    if isinstance(content, list):
        given["content"] = "\n".join(_text_of(part) for part in content)
    elif "content" not in given and "content" in message:
        given["content"] = ""
    return given


def _text_of(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise ValueError("must have contents of text only: {'type': 'text', 'text': ...}")
    return text


class ChatRequest(Asked):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": [{"role": "user", "content": "Where is the Eiffel Tower?"}]},
                {
                    "messages": [
                        {"role": "system", "content": "Answer with one word."},
                        {"role": "user", "content": "Where is the Eiffel Tower?"},
                        {"role": "assistant", "content": "The Eiffel Tower is in"},
                    ],
                    "continue_final_message": True,
                    "temperature": 0,
                },
            ]
        },
    )

    @model_validator(mode="before")
    @classmethod
    def _newer_limit(cls, body: Any) -> Any:
        """Of both limits, the one that took the place of the other."""
        if not isinstance(body, dict) or body.get("max_completion_tokens") is None:
            return body
        return {name: value for name, value in body.items() if name != "max_tokens"}

    max_tokens: int = Field(
        default=MAX_NEW_TOKENS,
        ge=1,
        le=MAX_NEW_TOKENS,
        validation_alias=AliasChoices("max_completion_tokens", "max_tokens"),
        description="tokens to generate at most; by default as many as fit",
        examples=[32],
    )
    messages: Annotated[Messages, BeforeValidator(_texts_only)] = Field(
        description="a chat, in the model's own chat template; contents are text",
        examples=[[{"role": "user", "content": "Where is the Eiffel Tower?"}]],
    )
    logprobs: bool = Field(default=False, description="show each token's log-probability")
    top_logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="and those of so many of the likeliest tokens in its place",
        examples=[2],
    )
    continue_final_message: ContinueFinalMessage = Field(
        default=False, description="go on with the assistant's turn that ends `messages`"
    )
    add_generation_prompt: bool | None = Field(
        default=None,
        description="as in vLLM: false is for continue_final_message, true for all else",
    )

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("logprobs") is False:
            raise ValueError("goes with logprobs: true only")
        return value

    @field_validator("add_generation_prompt")
    @classmethod
    def _one_of_both(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value is not None and value is info.data.get("continue_final_message"):
            raise ValueError("must be the opposite of continue_final_message")
        return value

    @property
    def sampling(self) -> Sampling:
        """How to choose tokens."""
        options = self.model_dump(include=set(Sampling.model_fields) - {"logprobs"})
        return Sampling(**options, logprobs=(self.top_logprobs or 0) if self.logprobs else None)

    @property
    def cut_to_fit(self) -> bool:
        """Nobody said how long the answer may be."""
        return "max_tokens" not in self.model_fields_set

"""Bodies of answers, in OpenAI's shapes; chunks of streams are parts of the same."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from contracts.generation import FinishReason
from contracts.ids import VersionId
from service.openapi import ANSWER_HEADERS, Responses

ANSWERED: Responses = {
    200: {
        "description": "The answer; with `stream` as chunks, the last of them `[DONE]`.",
        "headers": ANSWER_HEADERS,
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    # An event without a name is a "message" to its reader (HTML, 9.2.6).
                    "properties": {
                        "event": {"enum": ["message", "error"]},
                        "data": {"type": "string"},
                    },
                    "required": ["data"],
                },
            }
        },
    }
}


class TokenUsage(BaseModel):
    prompt_tokens: int = Field(examples=[10])
    completion_tokens: int = Field(examples=[8])
    total_tokens: int = Field(examples=[18])


class Logprobs(BaseModel):
    """Of a completion: four lists with one entry a token."""

    tokens: list[str] = Field(examples=[[" Rome"]])
    token_logprobs: list[float] = Field(description="nats", examples=[[-0.11]])
    top_logprobs: list[dict[str, float]] = Field(
        description="the token's own and the likeliest ones'", examples=[[{" Rome": -0.11}]]
    )
    text_offset: list[int] = Field(
        description="characters of the answer before the token", examples=[[0]]
    )


class CompletionChoice(BaseModel):
    index: int = Field(examples=[0])
    text: str = Field(examples=[" Rome."])
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = Field(examples=["length"])


class Completion(BaseModel):
    """Answer of `POST /v1/completions`."""

    id: str = Field(examples=["cmpl-5b1f0c9a8d7e6f5a4b3c"])
    object: Literal["text_completion"] = Field(
        default="text_completion", examples=["text_completion"]
    )
    created: int = Field(description="unix seconds", examples=[1795377600])
    model: str = Field(examples=["HuggingFaceTB/SmolLM2-135M-Instruct@v1"])
    system_fingerprint: VersionId = Field(
        description="the version that answers", examples=["v1-9f3c2a71b0de"]
    )
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class TokenProbability(BaseModel):
    token: str = Field(examples=[" Rome"])
    logprob: float = Field(description="nats", examples=[-0.11])
    bytes: list[int] | None = Field(
        description="UTF-8; null of a token that is a part of a character",
        examples=[[32, 82, 111, 109, 101]],
    )


class TokenLogprobs(TokenProbability):
    top_logprobs: list[TokenProbability]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprobs]


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = Field(default="assistant", examples=["assistant"])
    content: str = Field(examples=["It is in Rome."])
    refusal: None = Field(default=None, examples=[None])


class ChatChoice(BaseModel):
    index: int = Field(examples=[0])
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason = Field(examples=["stop"])


class ChatCompletion(BaseModel):
    """Answer of `POST /v1/chat/completions`."""

    id: str = Field(examples=["chatcmpl-5b1f0c9a8d7e6f5a4b3c"])
    object: Literal["chat.completion"] = Field(
        default="chat.completion", examples=["chat.completion"]
    )
    created: int = Field(description="unix seconds", examples=[1795377600])
    model: str = Field(examples=["HuggingFaceTB/SmolLM2-135M-Instruct@v1"])
    system_fingerprint: VersionId = Field(
        description="the version that answers", examples=["v1-9f3c2a71b0de"]
    )
    choices: list[ChatChoice]
    usage: TokenUsage | None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None


class ModelCard(BaseModel):
    """A version as a model."""

    id: str = Field(examples=["HuggingFaceTB/SmolLM2-135M-Instruct@v1"])
    object: Literal["model"] = Field(default="model", examples=["model"])
    created: int = Field(description="unix seconds", examples=[1795377600])
    owned_by: Literal["memit-service"] = Field(default="memit-service", examples=["memit-service"])
    root: str = Field(
        description="the base model", examples=["HuggingFaceTB/SmolLM2-135M-Instruct"]
    )
    parent: str | None = Field(
        description="what was edited; null of the untouched model",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct@base"],
    )
    version: VersionId = Field(description="that it names now", examples=["v1-9f3c2a71b0de"])


class ModelList(BaseModel):
    object: Literal["list"] = Field(default="list", examples=["list"])
    data: list[ModelCard]

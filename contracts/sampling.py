"""How the next token is chosen: the options of every request for a generation."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from contracts.limits import (
    MAX_BIAS,
    MAX_CHOICES,
    MAX_LOGIT_BIASES,
    MAX_LOGPROBS,
    MAX_NEW_TOKENS,
    MAX_PENALTY,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MAX_TEMPERATURE,
    MAX_TOKEN_ID,
    MAX_TOP_K,
)

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

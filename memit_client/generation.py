"""Generation: how to choose tokens, and what comes of it."""

from __future__ import annotations

from typing import TypedDict

from memit_client.model import Model


class Sampling(TypedDict, total=False):
    """Options of `generate` and `stream`; greedy unless `temperature` is over 0."""

    max_tokens: int
    min_tokens: int
    n: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[int, float]
    seed: int | None
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int | None
    priority: int
    """Of your key's requests that wait, the one with the lowest is next."""
    min_version: str | None
    """A version's id or short id: a `Conflict` rather than an answer of an older one."""


class Message(TypedDict):
    """A turn of a chat."""

    role: str
    """`system`, `developer`, `user` or `assistant`."""
    content: str


class Usage(Model):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int


class TokenLogprob(Model):
    """A token, its log-probability in nats, and the likeliest ones in its place."""

    token: str
    token_id: int
    logprob: float
    top: list[TokenLogprob] = []


class Choice(Model):
    """One of several answers."""

    index: int
    text: str
    finish_reason: str
    logprobs: list[TokenLogprob] | None = None


class Generation(Model):
    """A whole answer; `choices` are all of them where `n` is over 1."""

    id: str
    text: str
    version: str
    """The version that answered."""
    finish_reason: str
    """`stop` or `length`."""
    usage: Usage
    logprobs: list[TokenLogprob] | None = None
    choices: list[Choice] | None = None


class Generations(Model):
    """Answers of several versions, in the order in which they were asked for."""

    answers: list[Generation]


class TextEvent(Model):
    """More text of an answer; the last one of each choice has `finish_reason`, and no text."""

    text: str = ""
    choice: int = 0
    version: str = ""
    """The version that answers."""
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str | None = None
    usage: Usage | None = None

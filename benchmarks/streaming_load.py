"""Clients that stream completions from any server with OpenAI's API, and what they waited for."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np

TIMEOUT = 600.0
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Question:
    """One request."""

    prompt: str
    model: str
    max_tokens: int


@dataclass
class Answer:
    """When what came, in seconds from when the request was sent."""

    question: Question
    times: list[float] = field(default_factory=list)
    """Of every piece of text."""
    tokens: int = 0
    text: str = ""
    version: str = ""
    """That answered, where the server says it."""
    error: str | None = None


@dataclass(frozen=True)
class Load:
    """Either so many at once, or so many a second at Poisson's times."""

    concurrency: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        return f"{self.concurrency} at once" if self.rate is None else f"{self.rate:g} a second"


def body_of(question: Question) -> dict[str, Any]:
    """A request for one greedy answer of the length asked for, streamed."""
    return {
        "model": question.model,
        "prompt": question.prompt,
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(client: httpx2.AsyncClient, question: Question) -> Answer:
    """Stream one answer."""
    answer, body = Answer(question), body_of(question)
    begun = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != httpx2.codes.OK:
                await response.aread()
                answer.error = f"{response.status_code}: {response.text[:200]}"
                return answer
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    _hear(answer, json.loads(line[6:]), time.perf_counter() - begun)
    except httpx2.TransportError as error:
        answer.error = type(error).__name__
    return answer


def _hear(answer: Answer, chunk: dict[str, Any], now: float) -> None:
    if "error" in chunk:
        answer.error = str(chunk["error"])
    answer.version = chunk.get("system_fingerprint") or ""
    for choice in chunk.get("choices", ()):
        if choice.get("text"):
            answer.times.append(now)
            answer.text += choice["text"]
    if chunk.get("usage"):
        answer.tokens = chunk["usage"]["completion_tokens"]


async def run(url: str, questions: Sequence[Question], load: Load) -> tuple[list[Answer], float]:
    """All answers in the order of the questions, and the seconds from the first to the last."""
    limits = httpx2.Limits(max_connections=None)
    gate = asyncio.Semaphore(load.concurrency or len(questions))
    draw = random.Random(load.name)  # noqa: S311 - no secrets
    waits = [0.0 if load.rate is None else draw.expovariate(load.rate) for _ in questions]

    async with httpx2.AsyncClient(
        base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False
    ) as client:

        async def one(question: Question, start: float) -> Answer:
            await asyncio.sleep(start)
            async with gate:
                return await ask(client, question)

        begun = time.perf_counter()
        answers = await asyncio.gather(*map(one, questions, np.cumsum(waits)))
        return answers, time.perf_counter() - begun


def figures(answers: Sequence[Answer], seconds: float, slo: tuple[float, float]) -> dict[str, Any]:
    """What `vllm bench serve` reports: milliseconds at percentiles, tokens and requests a second.

    Args:
        slo: seconds to the first token, and mean seconds of a token after it, that an answer must
            keep to count as good.
    """
    good = [one for one in answers if one.error is None and one.times]
    first = [one.times[0] for one in good]
    each = [(one.times[-1] - one.times[0]) / max(1, one.tokens - 1) for one in good]
    gaps = [gap for one in good for gap in np.diff(one.times)]
    kept = sum(a <= slo[0] and b <= slo[1] for a, b in zip(first, each, strict=True))
    return {
        "requests": len(answers),
        "failures": len(answers) - len(good),
        "tokens_per_second": sum(one.tokens for one in good) / seconds,
        "requests_per_second": len(good) / seconds,
        "goodput": kept / seconds,
        "ttft_ms": _percentiles(first),
        "tpot_ms": _percentiles(each),
        "itl_ms": _percentiles(gaps),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not len(seconds):
        return None
    found = np.percentile(np.asarray(seconds) * 1_000, PERCENTILES)
    return {f"p{p}": round(float(value), 1) for p, value in zip(PERCENTILES, found, strict=True)}

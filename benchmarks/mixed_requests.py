"""Requests of other kinds beside streams: pinned to a version, of two choices, hung up on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import httpx2

from benchmarks.streaming_load import Answer, Question, ask, body_of

HEARD = 3
"""Lines of an answer, before its client hangs up."""


@dataclass
class Mixed:
    """What became of them."""

    answers: list[Answer] = field(default_factory=list)
    hung_up: int = 0
    astray: list[str] = field(default_factory=list)
    """Versions that answered instead of the one that a request named."""

    async def send(
        self,
        client: httpx2.AsyncClient,
        asked: Sequence[Question],
        versions: Sequence[str],
        over: asyncio.Event,
    ) -> None:
        """One after another, each kind in turn, until it is over.

        Args:
            versions: ids, for requests that name theirs.
        """
        in_turn = zip(itertools.cycle(asked), itertools.cycle(versions), strict=False)
        for question, version in in_turn:
            await self._pinned(client, question, version)
            self.answers += await two_choices(client, question)
            await hang_up(client, question)
            self.hung_up += 1
            if over.is_set():
                return

    async def _pinned(self, client: httpx2.AsyncClient, question: Question, version: str) -> None:
        name = question.model.partition("@")[0]
        answer = await ask(client, replace(question, model=f"{name}@{version}"))
        self.answers.append(answer)
        if answer.error is None and answer.version != version:
            self.astray.append(answer.version)


async def two_choices(client: httpx2.AsyncClient, question: Question) -> list[Answer]:
    """Both, not streamed; they are greedy, so that each is what the version says."""
    body = body_of(question) | {"n": 2, "stream": False, "stream_options": None}
    try:
        reply = await client.post("/v1/completions", json=body)
    except httpx2.TransportError as error:
        return [Answer(question, error=type(error).__name__)]
    if reply.status_code != httpx2.codes.OK:
        return [Answer(question, error=f"{reply.status_code}: {reply.text[:200]}")]
    found = reply.json()
    return [
        Answer(
            question,
            tokens=question.max_tokens,
            text=choice["text"],
            version=found["system_fingerprint"],
        )
        for choice in found["choices"]
    ]


async def hang_up(client: httpx2.AsyncClient, question: Question) -> None:
    """Begin to listen to an answer, and leave."""
    async with client.stream("POST", "/v1/completions", json=body_of(question)) as response:
        lines = response.aiter_lines()
        for _ in range(HEARD):
            await anext(lines)

"""HTTP, waiting and files, blocking or not: all in which `Memit` and `AsyncMemit` differ.

The client is written once, as coroutines over a `Transport`. Those of `Blocking` never suspend, so
`run` takes a coroutine that stands on it to its end in a single step, without an event loop.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import anyio
import httpx2
from anyio.to_thread import run_sync

T = TypeVar("T")
Events = AsyncGenerator[httpx2.ServerSentEvent, None]
Chunks = AsyncGenerator[bytes, None]


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("only coroutines over a Blocking transport can be run")


class Transport(Protocol):
    """Raises what httpx2 raises."""

    @property
    def client(self) -> httpx2.Client | httpx2.AsyncClient:
        """Makes the requests."""

    async def send(self, request: httpx2.Request, *, stream: bool) -> httpx2.Response:
        """The answer, whole; with `stream` before its body, to be closed."""

    async def read(self, response: httpx2.Response) -> None:
        """Read the rest of a body."""

    async def close(self, response: httpx2.Response) -> None:
        """Give up the rest of a body."""

    def events(self, response: httpx2.Response) -> Events:
        """The server-sent events of a body."""

    def chunks(self, response: httpx2.Response) -> Chunks:
        """A body in pieces."""

    async def sleep(self, seconds: float) -> None:
        """Do nothing for so long."""

    async def on_disk(self, work: Callable[[], T]) -> T:
        """Do what waits for a disk, holding up nobody else."""

    async def end(self) -> None:
        """Close all connections."""


class Blocking:
    """Over an `httpx2.Client`."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    async def send(self, request: httpx2.Request, *, stream: bool) -> httpx2.Response:
        return self.client.send(request, stream=stream)

    async def read(self, response: httpx2.Response) -> None:
        response.read()

    async def close(self, response: httpx2.Response) -> None:
        response.close()

    async def events(self, response: httpx2.Response) -> Events:
        for event in httpx2.EventSource(response):
            yield event

    async def chunks(self, response: httpx2.Response) -> Chunks:
        for chunk in response.iter_bytes():
            yield chunk

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop to hold up

    async def on_disk(self, work: Callable[[], T]) -> T:
        return work()

    async def end(self) -> None:
        self.client.close()


class NonBlocking:
    """Over an `httpx2.AsyncClient`."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def send(self, request: httpx2.Request, *, stream: bool) -> httpx2.Response:
        return await self.client.send(request, stream=stream)

    async def read(self, response: httpx2.Response) -> None:
        await response.aread()

    async def close(self, response: httpx2.Response) -> None:
        await response.aclose()

    async def events(self, response: httpx2.Response) -> Events:
        async for event in httpx2.EventSource(response):
            yield event

    async def chunks(self, response: httpx2.Response) -> Chunks:
        async for chunk in response.aiter_bytes():
            yield chunk

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def on_disk(self, work: Callable[[], T]) -> T:
        return await run_sync(work)

    async def end(self) -> None:
        await self.client.aclose()

"""`Memit` and `AsyncMemit`: the same methods, blocking and as coroutines."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx2

from memit_client.caller import Caller
from memit_client.methods import Methods
from memit_client.transport import Blocking, NonBlocking, run

URL = "http://127.0.0.1:8000"
TIMEOUT = httpx2.Timeout(10.0, read=120.0)
RETRIES = 2

API_KEY = "MEMIT_API_KEY"

P = ParamSpec("P")
T = TypeVar("T")


def _key(given: str | None) -> str | None:
    return os.environ.get(API_KEY) if given is None else given


class AsyncMemit(Methods):
    """A client whose methods are coroutines, and whose lists and streams async iterators."""

    def __init__(
        self,
        base_url: str = URL,
        *,
        api_key: str | None = None,
        timeout: float | httpx2.Timeout = TIMEOUT,
        max_retries: int = RETRIES,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        """See `Memit`."""
        # The service is named by its URL: proxies of the environment are not asked.
        transport = NonBlocking(http or httpx2.AsyncClient(trust_env=False))
        super().__init__(Caller(transport, base_url, _key(api_key), timeout, max_retries))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._caller.transport.end()


def _blocking(
    method: Callable[Concatenate[Methods, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Memit, P], T]:
    @wraps(method)
    def call(self: Memit, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self._methods, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[Methods, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Memit, P], Iterator[T]]:
    @wraps(method)
    def call(self: Memit, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _items(method(self._methods, *args, **kwargs))

    return call


def _items(source: AsyncGenerator[T, None]) -> Iterator[T]:
    try:
        while True:
            try:
                item = run(source.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(source.aclose())


class Memit:
    """A client; to be closed, or used as a context manager. Threads may share one."""

    def __init__(
        self,
        base_url: str = URL,
        *,
        api_key: str | None = None,
        timeout: float | httpx2.Timeout = TIMEOUT,
        max_retries: int = RETRIES,
        http: httpx2.Client | None = None,
    ) -> None:
        """
        Args:
            base_url: where the service is.
            api_key: the key to show; by default that in `MEMIT_API_KEY`, if it is set.
            timeout: seconds for each of connecting, sending, and the next bytes of an answer.
            max_retries: how often a request is sent again that found nobody, or 429 or 503.
            http: an httpx2 client of your own, for proxies, certificates or further headers; it
                is closed with this one.
        """
        transport = Blocking(http or httpx2.Client(trust_env=False))
        self._methods = Methods(Caller(transport, base_url, _key(api_key), timeout, max_retries))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        run(self._methods._caller.transport.end())

    edit = _blocking(Methods.edit)
    add = _blocking(Methods.add)
    wait = _blocking(Methods.wait)
    get_edit = _blocking(Methods.get_edit)
    edits = _iterating(Methods.edits)
    cancel = _blocking(Methods.cancel)
    facts = _iterating(Methods.facts)
    get_fact = _blocking(Methods.get_fact)
    retract = _blocking(Methods.retract)
    generate = _blocking(Methods.generate)
    compare = _blocking(Methods.compare)
    stream = _iterating(Methods.stream)
    versions = _iterating(Methods.versions)
    get_version = _blocking(Methods.get_version)
    ledger = _blocking(Methods.ledger)
    diff = _blocking(Methods.diff)
    download = _blocking(Methods.download)
    aliases = _blocking(Methods.aliases)
    get_alias = _blocking(Methods.get_alias)
    alias_history = _iterating(Methods.alias_history)
    set_alias = _blocking(Methods.set_alias)
    health = _blocking(Methods.health)
    ready = _blocking(Methods.ready)

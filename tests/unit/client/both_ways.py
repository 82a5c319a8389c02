"""An `AsyncMemit` that is called as a `Memit` is, so that one test holds both to the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from memit_client import AsyncMemit, Memit

WAYS = ("blocking", "async")
Connect = Callable[..., Any]


class InLoop:
    """Every call goes to an event loop in another thread, and is waited for."""

    def __init__(self, portal: BlockingPortal, client: AsyncMemit) -> None:
        self._portal = portal
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found = self._portal.call(partial(getattr(self._client, name), *args, **kwargs))
            return self._items(found) if isinstance(found, AsyncGenerator) else found

        return call

    def _items(self, source: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while (item := self._portal.call(anext, source, None)) is not None:
                yield item
        finally:
            self._portal.call(source.aclose)


@contextmanager
def connected(way: str, url: str, **options: Any) -> Iterator[Any]:
    """A client of either kind while the context lasts."""
    if way == "blocking":
        with Memit(url, **options) as client:
            yield client
        return
    with start_blocking_portal() as portal:
        client = portal.call(partial(AsyncMemit, url, **options))
        with portal.wrap_async_context_manager(client):
            yield InLoop(portal, client)

"""Sends requests, again where that is safe, and turns what goes wrong into the client's errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypedDict, TypeVar, Unpack

import httpx2
from pydantic import ValidationError

from memit_client.endpoints import Endpoint, Page, Route
from memit_client.errors import ConnectionFailed, MemitError, UnexpectedAnswer, refusal
from memit_client.problems import Problem
from memit_client.retry import pause
from memit_client.transport import Chunks, Events, Transport

T = TypeVar("T")
PAGE = 100
SHOWN = 200
"""Characters of an answer that is no problem of the service's, such as a proxy's page."""
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Given(TypedDict, total=False):
    """What goes with a request."""

    names: Mapping[str, str]
    """Those in the path."""
    body: Mapping[str, Any]
    params: Mapping[str, Any]
    """Those that are None are left out."""
    headers: Mapping[str, str]
    read_seconds: float
    """Of silence, after which the connection counts as broken."""


class Answer:
    """An answer whose body is read as it comes; what breaks off raises `ConnectionFailed`."""

    def __init__(self, transport: Transport, response: httpx2.Response) -> None:
        self._transport = transport
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status_code

    async def events(self) -> Events:
        """Its server-sent events."""
        with translated():
            async with aclosing(self._transport.events(self._response)) as events:
                async for event in events:
                    yield event

    async def chunks(self) -> Chunks:
        """Its body."""
        with translated():
            async with aclosing(self._transport.chunks(self._response)) as chunks:
                async for chunk in chunks:
                    yield chunk


class Caller:
    """One service at one URL."""

    def __init__(
        self,
        transport: Transport,
        base_url: str,
        api_key: str | None,
        timeout: float | httpx2.Timeout,
        max_retries: int,
    ) -> None:
        self.transport = transport
        self._key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._base_url = base_url.rstrip("/")
        self._timeout = httpx2.Timeout(timeout)
        self.max_retries = max_retries

    async def call(self, endpoint: Endpoint[T], **given: Unpack[Given]) -> T:
        """The answer of an endpoint.

        Raises:
            MemitError: there is none, or it is a refusal.
        """
        return endpoint.read(await self.raw(endpoint, **given))

    async def raw(self, route: Route, **given: Unpack[Given]) -> bytes:
        """The same, as it was sent."""
        request = self._request(route, given)
        response = await self._send(request, route, stream=False, retries=self.max_retries)
        return response.content

    async def pages(
        self,
        endpoint: Endpoint[Page[T]],
        params: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[T, None]:
        """Every item of a list; a page is fetched when it is reached."""
        cursor = None
        while True:
            asked = {**(params or {}), "limit": PAGE, "cursor": cursor}
            page = await self.call(endpoint, params=asked, names=names or {})
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    @asynccontextmanager
    async def streamed(
        self, route: Route, *, retries: int | None = None, **given: Unpack[Given]
    ) -> AsyncIterator[Answer]:
        """An answer before its body; `retries` are by default as for every call."""
        request = self._request(route, given)
        retries = self.max_retries if retries is None else retries
        response = await self._send(request, route, stream=True, retries=retries)
        try:
            yield Answer(self.transport, response)
        finally:
            await self.transport.close(response)

    def _request(self, route: Route, given: Given) -> httpx2.Request:
        timeout = self._timeout.as_dict()
        if (seconds := given.get("read_seconds")) is not None:
            timeout["read"] = seconds
        params = {name: one for name, one in given.get("params", {}).items() if one is not None}
        return self.transport.client.build_request(
            route.method,
            self._base_url + route.filled(given.get("names", {})),
            json=given.get("body"),
            params=params or None,
            headers={**self._key, **given.get("headers", {})},
            timeout=httpx2.Timeout(**timeout),
        )

    async def _send(
        self, request: httpx2.Request, route: Route, *, stream: bool, retries: int
    ) -> httpx2.Response:
        tried = 0
        while True:
            try:
                return await self._once(request, stream)
            except MemitError as error:
                seconds = pause(error, route.repeat, tried) if tried < retries else None
                if seconds is None:
                    raise
            await self.transport.sleep(seconds)
            tried += 1

    async def _once(self, request: httpx2.Request, stream: bool) -> httpx2.Response:
        with translated():
            response = await self.transport.send(request, stream=stream)
            if not response.is_success:
                await self.transport.read(response)
        if not response.is_success:
            raise _failure(response)
        return response


@contextmanager
def translated() -> Iterator[None]:
    """Raise httpx2's errors as the client's."""
    try:
        yield
    except httpx2.SSEError as error:
        raise UnexpectedAnswer(str(error)) from error
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ConnectionFailed(reason, sent=not isinstance(error, _NOT_SENT)) from error


def _failure(response: httpx2.Response) -> MemitError:
    where = f"{response.request.method} {response.url}"
    if not response.is_error:
        return UnexpectedAnswer(f"{where}: {response.status_code} {response.reason_phrase}")
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase or "Refused",
            status=response.status_code,
            detail=f"{where}: {response.text[:SHOWN]}",
        )
    return refusal(problem, _seconds(response.headers.get("retry-after")))


def _seconds(retry_after: str | None) -> float | None:
    """What a `Retry-After` asks for, in seconds or as a date; None if it is neither."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        then = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())

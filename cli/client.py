"""Talks to the service over HTTP and turns whatever goes wrong into one clear message."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, BinaryIO, Self, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from cli.api_key import VARIABLE, given_key
from cli.errors import CommandFailed
from contracts.errors import Problem
from contracts.limits import MAX_PAGE

TIMEOUT = httpx2.Timeout(30.0, read=120.0)
SLOW = httpx2.Timeout(30.0, read=1_800.0)
"""The changes of a large model are read, and perhaps decomposed, before the first byte is sent."""

T = TypeVar("T", bound=BaseModel)


class _Page(BaseModel):
    items: list[dict[str, Any]]
    next_cursor: str | None = None


class ProblemAnswer(CommandFailed):
    """The service answered with a problem."""

    def __init__(self, problem: Problem, retry_after: str | None = None) -> None:
        if problem.errors:
            lines = [f"{problem.title} ({problem.status}):"]
            lines += [f"  {error.field} {error.reason}".rstrip() for error in problem.errors]
        else:
            lines = [f"{problem.title} ({problem.status}): {problem.detail}"]
        if problem.status == HTTPStatus.UNAUTHORIZED:
            lines.append(f"  set {VARIABLE} or --api-key; `memit keys create` makes a key")
        if retry_after is not None:
            lines.append(f"  try again in {retry_after} s")
        super().__init__("\n".join(lines))
        self.problem = problem


class Disconnected(CommandFailed):
    """There is no service at the URL, or it broke off."""


class Client:
    """One service; every method raises `ProblemAnswer` or `Disconnected`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """
        Args:
            api_key: by default that of the command that runs; empty: none.
        """
        self.url = url.rstrip("/")
        key = given_key() if api_key is None else api_key
        # The service is ours and named by its URL: proxies of the environment are not asked.
        self._http = httpx2.Client(
            base_url=self.url,
            timeout=TIMEOUT,
            trust_env=False,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx2.Response:
        """One request; `params` that are None are left out."""
        try:
            answer = self._http.request(
                method,
                path,
                json=body,
                params=_given(params),
                headers=headers,
            )
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise self._disconnected(error) from error
        if answer.is_error:
            raise _problem(answer)
        return answer

    def get(self, kind: type[T], path: str, params: dict[str, Any] | None = None) -> T:
        """The resource at `path`."""
        return self.read(kind, self.call("GET", path, params=params))

    def newest(
        self, kind: type[T], path: str, limit: int, params: dict[str, Any] | None = None
    ) -> list[T]:
        """The newest `limit` entries of the list at `path`, page by page."""
        found: list[T] = []
        cursor = None
        while len(found) < limit:
            size = min(limit - len(found), MAX_PAGE)
            page = self.get(_Page, path, {**(params or {}), "limit": size, "cursor": cursor})
            try:
                found += [kind.model_validate(item) for item in page.items]
            except ValidationError:
                raise self._strange() from None
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    def read(self, kind: type[T], answer: httpx2.Response) -> T:
        """The body of an answer."""
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError:
            raise self._strange() from None

    def events(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Iterator[httpx2.ServerSentEvent]:
        """The server-sent events of one request, as they come."""
        try:
            with self._http.stream(
                method,
                path,
                json=body,
                headers={"Accept": "text/event-stream"},
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise _problem(answer)
                yield from httpx2.EventSource(answer)
        except httpx2.TransportError as error:
            raise self._disconnected(error) from error

    def download(
        self, path: str, file: BinaryIO, params: dict[str, Any] | None = None
    ) -> httpx2.Headers:
        """Write the body of an answer into `file` as it comes; the answer's headers."""
        try:
            with self._http.stream("GET", path, params=_given(params), timeout=SLOW) as answer:
                if answer.is_error:
                    answer.read()
                    raise _problem(answer)
                file.writelines(answer.iter_bytes())
                return answer.headers
        except httpx2.TransportError as error:
            raise self._disconnected(error) from error

    def _strange(self) -> CommandFailed:
        return CommandFailed(f"{self.url} does not answer as this service does")

    def _disconnected(self, error: Exception) -> Disconnected:
        if isinstance(error, httpx2.ConnectError):
            return Disconnected(
                f"nothing answers at {self.url}: is it running? start it with `memit serve`"
            )
        return Disconnected(f"{self.url}: {error or type(error).__name__}")


def _given(params: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _problem(answer: httpx2.Response) -> CommandFailed:
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        return CommandFailed(f"{answer.url} answered {answer.status_code} {answer.reason_phrase}")
    return ProblemAnswer(problem, answer.headers.get("retry-after"))

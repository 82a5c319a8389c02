"""The key that commands show to a service: one option, `--api-key`, for all that talk to one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

VARIABLE = "MEMIT_API_KEY"
OPTION = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=VARIABLE,
        help="Key of the service, if it asks for one; better given by the variable.",
    ),
]
_given: ContextVar[str | None] = ContextVar("api_key", default=None)


def given_key() -> str | None:
    """The key that the command which runs was given."""
    return _given.get()


def keyed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option `--api-key` besides its own."""

    @wraps(command)
    def run(*, api_key: str | None = None, **options: Any) -> None:
        token = _given.set(api_key)
        try:
            command(**options)
        finally:
            _given.reset(token)

    hints = {**get_type_hints(command, include_extras=True), "api_key": OPTION}
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = inspect.signature(command).parameters.values()
    options = [*own, inspect.Parameter("api_key", keyword, default=None)]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=keyword, annotation=hints[one.name]) for one in options]
    )
    run.__annotations__ = hints
    return run

"""A command whose options are the fields of a dataclass, each spelled once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def command_of(
    options: type[Any], run: Callable[[Any], None], name: str | None = None
) -> Callable[..., None]:
    """A function for Typer: it takes the fields of `options` and runs with them.

    Args:
        options: a dataclass; its fields are annotated as Typer's parameters are, and its docstring
            is the command's help.
        name: of the command, where it is not registered under one.
    """

    def command(**given: Any) -> None:
        run(options(**given))

    hints = get_type_hints(options, include_extras=True)
    parameters = inspect.signature(options).parameters
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(annotation=hints[one.name]) for one in parameters.values()]
    )
    command.__annotations__ = {name: hints[name] for name in parameters}
    command.__doc__ = options.__doc__
    command.__name__ = name or command.__name__
    return command

"""What commands print: results on stdout, everything said to people on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cli.errors import CommandFailed

UNLIMITED = 10_000


def results() -> Console:
    """The console of results: stdout; lines are cut to the width of a terminal only."""
    return Console(width=None if sys.stdout.isatty() else UNLIMITED)


def messages() -> Console:
    """The console of progress, notes and failures: stderr."""
    return Console(stderr=True)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print plain text: nothing in it is markup, and only terminals get it wrapped."""
    console.print(
        text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal
    )


def require_folder(file: Path) -> None:
    """Before hours are spent: a file that shall be written has a folder to be in.

    Raises:
        CommandFailed: it has none, or is one.
    """
    if not file.absolute().parent.is_dir():
        raise CommandFailed(f"{file}: there is no folder {file.absolute().parent}")
    if file.is_dir():
        raise CommandFailed(f"{file}: is a folder")


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    """Print `value` as indented JSON, without colours or wrapping."""
    typer.echo(as_json(value))


def as_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> str:
    """Indented JSON."""
    if isinstance(value, BaseModel):
        plain: Any = value.model_dump(mode="json")
    elif isinstance(value, dict):
        plain = value
    else:
        plain = [one.model_dump(mode="json") for one in value]
    return json.dumps(plain, indent=2, ensure_ascii=False)


def table(headings: Iterable[str], rows: Iterable[Sequence[str | RenderableType]]) -> Table:
    """A table of plain text: square brackets in a cell are shown, not read as markup."""
    made = Table(header_style="bold", show_edge=False, pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def yes_or_no(value: bool) -> Text:
    return Text("yes", style="green") if value else Text("no", style="red")


def when(seconds: float | None) -> str:
    """Unix seconds as local time."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"

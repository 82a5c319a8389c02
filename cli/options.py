"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.settings import Settings

Url = Annotated[
    str,
    typer.Option("--url", envvar="MEMIT_URL", help="Where the service answers."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Newest entries to show at most.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Stay until the edit has ended, or do not.")
]

Home = Annotated[
    Path | None,
    typer.Option(help="Folder of the registry; by default MEMIT_HOME.", show_default=False),
]
RegistryUrl = Annotated[
    str | None, typer.Option("--url", help="Where the service answers, to go through its API.")
]

DEFAULT_URL = "http://127.0.0.1:8000"


def settings_of(home: Path | None) -> Settings:
    """The settings of the environment, with this home if one is given."""
    return Settings() if home is None else Settings(home=home.absolute())

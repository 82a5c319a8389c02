"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[
    str,
    typer.Option("--url", envvar="MEMIT_URL", help="Where the service answers."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Newest entries to show at most.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Stay until the edit has ended, or do not.")
]

DEFAULT_URL = "http://127.0.0.1:8000"

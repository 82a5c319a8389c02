"""`memit top`: the workers, as they are every second."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cli import output
from cli.client import Client
from cli.options import DEFAULT_URL, Json, Url
from contracts.workers import Workers, WorkerStatus

HEADINGS = ("worker", "on", "does", "rows", "waiting", "tokens a second", "memory", "versions")


def top(
    url: Url = DEFAULT_URL,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    json: Json = False,
) -> None:
    """Watch the workers: rows, tokens a second, versions in memory, and what waits.

    Without a terminal it prints once. Tokens a second are those between two looks.
    """
    with Client(url) as client:
        found = client.get(Workers, "/workers")
        if json:
            output.print_json(found)
            return
        if once or not sys.stdout.isatty():
            time.sleep(every)
            output.results().print(shown(client.get(Workers, "/workers"), found))
            return
        with Live(shown(found, found), console=output.results(), screen=True) as live:
            try:
                while True:
                    time.sleep(every)
                    before, found = found, client.get(Workers, "/workers")
                    live.update(shown(found, before))
            except KeyboardInterrupt:
                pass


def shown(now: Workers, before: Workers) -> RenderableType:
    """A line for each worker, and what waits for all of them."""
    earlier = {worker.id: worker for worker in before.workers}
    lines: list[Sequence[str | RenderableType]] = [
        (
            worker.id,
            f"{worker.host} {worker.device}, {worker.model}",
            _doing(worker),
            str(worker.running),
            str(worker.waiting),
            _rate(worker, earlier.get(worker.id)),
            f"{worker.rss_bytes / 1e9:.1f} GB",
            _versions(worker),
        )
        for worker in now.workers
    ]
    lines += [
        (f"{one.host} {one.pid}", one.model, f"starts: {one.doing}", "", "", "", "", "")
        for one in now.starting
    ]
    waits = f"waiting for a worker: {now.waiting} generations, {now.edits_waiting} edits"
    return Group(output.table(HEADINGS, lines), Text(waits if lines else f"no worker; {waits}"))


def _doing(worker: WorkerStatus) -> str:
    if worker.edit is not None:
        return f"edits {worker.edit}"
    able = [word for word, yes in (("generate", worker.ready), ("edit", worker.edit_ready)) if yes]
    return f"ready to {' and '.join(able)}" if able else "not ready"


def _versions(worker: WorkerStatus) -> Text:
    """Those in memory, the one that `active` names in green."""
    parts = [Text(one, "green" if one == worker.active else "") for one in worker.versions]
    return Text(", ").join(parts)


def _rate(now: WorkerStatus, before: WorkerStatus | None) -> str:
    """Of tokens, between what a worker said twice; a worker that began anew has none yet."""
    if before is None or now.said_at is None or before.said_at is None:
        return ""
    seconds, tokens = now.said_at - before.said_at, now.generated_tokens - before.generated_tokens
    return f"{tokens / seconds:.0f}" if seconds > 0 and tokens >= 0 else ""

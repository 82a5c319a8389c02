"""`memit rebase`: the facts of one service written into another, and how both fare with them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

import typer

from cli import output
from cli.client import Client, Disconnected
from cli.follow import LOST_SECONDS, RECONNECT_SECONDS
from cli.options import DEFAULT_URL, Url, Wait
from cli.outcome import require_committed, say_serving, wait_for_end
from cli.rebase_table import differing, in_a_line, side_by_side
from contracts.edits import Edit
from contracts.ledgers import VersionLedger
from contracts.rebase import RebaseComparison
from contracts.versions import ACTIVE, ANY_EPOCH


def rebase(
    source: Annotated[
        str, typer.Option("--from", metavar="URL", help="Where the service with the facts answers.")
    ],
    from_api_key: Annotated[
        str,
        typer.Option(envvar="MEMIT_FROM_API_KEY", help="Key of the service at --from, if it asks."),
    ] = "",
    version: Annotated[
        str, typer.Option(help="Version or alias there that has the facts.")
    ] = ACTIVE,
    activate: Annotated[
        bool | None,
        typer.Option(
            "--activate/--no-activate",
            help="Serve the new version, or only make it. By default it is served if the target "
            "serves the untouched model.",
            show_default=False,
        ),
    ] = None,
    drop_failed: Annotated[
        bool, typer.Option("--drop-failed", help="Leave out facts that were not learned.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="Sent twice with one key, the facts are written once and compared again."
        ),
    ] = None,
    wait: Wait = True,
    url: Url = DEFAULT_URL,
    json: Annotated[Path | None, typer.Option(help="Write the comparison to this file.")] = None,
) -> None:
    """Write the facts of the service at --from, all and no others, into that at --url.

    Exit code 0 if they were committed there, else 1.
    """
    if json is not None:
        output.require_folder(json)
    # Never the key of the target: who answers at --from would learn it.
    with Client(source, from_api_key) as origin:
        ledger = origin.get(VersionLedger, f"/versions/{quote(version, safe='')}/ledger")
    body = {
        "ledger": ledger.model_dump(mode="json"),
        "activate": activate,
        "drop_failed": drop_failed,
    }
    headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
    if activate:
        headers["If-Match"] = ANY_EPOCH
    with Client(url) as client:
        accepted = _post(client, body, headers)
        if not wait:
            typer.echo(accepted.id)
            return
        ended = wait_for_end(client, accepted.id)
        if ended.version is not None:
            _show(client.get(RebaseComparison, f"/edits/{ended.id}/rebase"), ledger, json)
    require_committed(ended)
    say_serving(ended)


def _post(client: Client, body: dict[str, Any], headers: dict[str, str]) -> Edit:
    """The accepted edit; a request that was cut off is sent again, with the same key.

    Raises:
        Disconnected: nothing answers at first, or for `LOST_SECONDS` later on.
        ProblemAnswer: the service refused.
    """
    client.call("GET", "/healthz")
    until = time.monotonic() + LOST_SECONDS
    while True:
        try:
            return client.read(Edit, client.call("POST", "/rebase", body=body, headers=headers))
        except Disconnected:
            if time.monotonic() > until:
                raise
        time.sleep(RECONNECT_SECONDS)


def _show(comparison: RebaseComparison, ledger: VersionLedger, file: Path | None) -> None:
    console = output.results()
    console.print(side_by_side(comparison))
    if table := differing(comparison, (live.fact for live in ledger.facts)):
        console.print()
        console.print(table)
    output.say(output.messages(), in_a_line(comparison))
    if file is not None:
        file.write_text(f"{output.as_json(comparison)}\n", "utf-8")

"""`memit versions`, `facts` and `activate`: look at what is there, and say what serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.text import Text

from cli import output
from cli.alias import aliases, put_alias, share_of
from cli.client import Client
from cli.options import DEFAULT_URL, Json, Limit, Url
from contracts.facts import LiveFact
from contracts.versions import ACTIVE, AliasRecord, Version, VersionStatus


def versions(url: Url = DEFAULT_URL, limit: Limit = 20, json: Json = False) -> None:
    """List the versions, newest first."""
    with Client(url) as client:
        found = client.newest(Version, "/versions", limit)
        records = [] if json else aliases(client)
    if json:
        output.print_json(found)
        return
    output.results().print(
        output.table(
            ("version", "aliases", "status", "parent", "facts", "learned", "made"),
            (
                (
                    one.id,
                    Text(_aliases(one, records), style="green"),
                    _status(one),
                    one.parent or "",
                    str(one.live_count),
                    output.share(one.report.success if one.report else None),
                    output.when(one.created_at),
                )
                for one in found
            ),
        )
    )


def facts(
    subject: Annotated[str | None, typer.Option(help="Only facts about this subject.")] = None,
    version: Annotated[str | None, typer.Option(help="The facts of this version or alias.")] = None,
    url: Url = DEFAULT_URL,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """List the facts that a version holds; by default those of `active`."""
    with Client(url) as client:
        params = {"subject": subject, "version": version}
        found = client.newest(LiveFact, "/facts", limit, params)
    if json:
        output.print_json(found)
        return
    output.results().print(
        output.table(
            ("fact", "prompt", "target", "learned", "since"),
            (
                (
                    one.id,
                    one.fact.filled,
                    one.fact.target_new,
                    output.yes_or_no(one.learned),
                    f"v{one.since}",
                )
                for one in found
            ),
        )
    )


def activate(
    version: Annotated[str, typer.Argument(help="Version (v3-…, v3) or alias that shall serve.")],
    alias: Annotated[str, typer.Option(help="The alias to move.")] = ACTIVE,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Let an alias name another version: promote it, or roll back."""
    with Client(url) as client:
        record = put_alias(client, alias, {"version": version})
    if json:
        output.print_json(record)
    else:
        typer.echo(f"{record.name} is now {record.version}")


def _aliases(version: Version, records: Iterable[AliasRecord]) -> str:
    """Names of the aliases, of a split with the version's share."""
    named = {one.name: one for one in records if one.split is not None}
    return ", ".join(
        f"{name} {share_of(named[name], version.id)}"
        if name in named and version.id in named[name].versions
        else name
        for name in version.aliases
    )


def _status(version: Version) -> str:
    if version.status is VersionStatus.COMMITTED and version.dry_run:
        return "dry run"
    return version.status.value

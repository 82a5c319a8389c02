"""`memit alias`: what aliases name now and named before, and pointing or splitting one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import RootModel
from rich.table import Table

from cli import output
from cli.client import Client, ProblemAnswer
from cli.errors import CommandFailed
from cli.options import DEFAULT_URL, Json, Limit, Url
from contracts.limits import MAX_SPLIT_WEIGHT
from contracts.versions import AliasPeriod, AliasRecord

NOW = "now"


class AliasList(RootModel[list[AliasRecord]]):
    """What `GET /aliases` answers."""


def alias(
    name: Annotated[str | None, typer.Argument(help="The alias to show or to set.")] = None,
    to: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VERSION | VERSION=WEIGHT...]",
            help="The version that it shall name, or versions and weights to share generations "
            "among: v12=9 v13=1.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """List the aliases; show what one named and when; point it at a version, or split it."""
    with Client(url) as client:
        if name is None:
            shown: list[Any] = aliases(client)
        elif to:
            shown = [put_alias(client, name, body_of(to))]
        else:
            shown = client.newest(AliasPeriod, f"{_path(name)}/history", limit)
    if json:
        output.print_json(shown[0] if to else shown)
    elif to:
        typer.echo(f"{name} is now {in_words(shown[0])}")
    else:
        output.results().print(_list(shown) if name is None else _history(shown))


def aliases(client: Client) -> list[AliasRecord]:
    """All aliases, by name."""
    return client.read(AliasList, client.call("GET", "/aliases")).root


def body_of(to: Sequence[str]) -> dict[str, Any]:
    """The body of `PUT /aliases/{name}` for `v12`, or for `v12=9 v13=1`.

    Raises:
        CommandFailed: it is neither.
    """
    if len(to) == 1 and "=" not in to[0]:
        return {"version": to[0]}
    split: dict[str, int] = {}
    for part in to:
        version, _, weight = part.rpartition("=")
        if not version:
            raise CommandFailed(
                f"{part}: of several versions each needs a weight, as in v12=9 v13=1"
            )
        if not re.fullmatch("[0-9]{1,9}", weight):
            raise CommandFailed(
                f"{part}: the weight must be a whole number from 1 to {MAX_SPLIT_WEIGHT}"
            )
        if version in split:
            raise CommandFailed(f"{part}: {version} is named twice")
        split[version] = int(weight)
    return {"split": split}


def etag_of(client: Client, alias: str) -> str:
    """The ETag of an alias as it stands now, for `If-Match`."""
    return client.call("GET", _path(alias)).headers["etag"]


def put_alias(client: Client, alias: str, body: dict[str, Any]) -> AliasRecord:
    """Set an alias, or make it; refused if somebody else moves it meanwhile."""
    try:
        condition = {"If-Match": etag_of(client, alias)}
    except ProblemAnswer as answer:
        if answer.problem.status != HTTPStatus.NOT_FOUND:
            raise
        condition = {"If-None-Match": "*"}
    return client.read(AliasRecord, client.call("PUT", _path(alias), body=body, headers=condition))


def in_words(record: AliasRecord) -> str:
    """What it names: one version, or several with their shares, the heaviest first."""
    if record.split is None:
        return record.version
    split = sorted(record.split.items(), key=lambda item: -item[1])
    return ", ".join(f"{version} {share_of(record, version)}" for version, _ in split)


def share_of(record: AliasRecord, version: str) -> str:
    """The part of generations that a version of a split gets, such as `90%`."""
    split = record.split or {record.version: 1}
    return f"{100 * split[version] / sum(split.values()):.3g}%"


def _path(alias: str) -> str:
    return f"/aliases/{quote(alias, safe='')}"


def _list(records: Iterable[AliasRecord]) -> Table:
    return output.table(
        ("alias", "names", "epoch", "since", "by"),
        (
            (one.name, in_words(one), str(one.epoch), output.when(one.at), one.edit_id or "")
            for one in records
        ),
    )


def _history(periods: Iterable[AliasPeriod]) -> Table:
    return output.table(
        ("epoch", "named", "from", "until", "by"),
        (
            (
                str(one.epoch),
                in_words(one),
                output.when(one.at),
                NOW if one.until is None else output.when(one.until),
                one.edit_id or "",
            )
            for one in periods
        ),
    )

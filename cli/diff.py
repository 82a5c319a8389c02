"""`memit diff`: which facts one version has and another has not, and how figures moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from cli import output
from cli.client import Client
from cli.options import DEFAULT_URL, Json, Url
from contracts.diffs import DiffFact, DiffFigure, VersionDiff
from contracts.facts import Fact
from contracts.limits import MAX_PAGE

LISTS = ("added", "superseded", "retracted")
_FORMATS = {"facts": ".0f", "perplexity_ratio": ".4f", "kl": ".2e"}
_SHARE = ".1%"
_REPORTS = {
    "report": "its edit's facts",
    "live_sample": "a sample of older facts",
    "full_report": "all live facts",
}


def diff(
    a: Annotated[str, typer.Argument(help="Version (v3-…, v3) or alias to start from.")],
    b: Annotated[str, typer.Argument(help="Version or alias to end at.")],
    limit: Annotated[int, typer.Option(min=1, help="Facts to show at most.")] = 100,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show the facts added, superseded and retracted from A to B, and how figures moved."""
    with Client(url) as client:
        found = difference(client, a, b, limit)
    if json:
        output.print_json(found)
        return
    console, messages = output.results(), output.messages()
    console.print(_facts(found))
    if found.figures:
        console.print()
        console.print(_figures(found))
    else:
        output.say(messages, "no figure was measured in both")
    output.say(messages, in_a_line(found))
    if not found.same_base:
        output.say(messages, f"other bases: {found.a.model} and {found.b.model}", "yellow")
    if found.next_cursor is not None:
        output.say(messages, f"only {limit} of {_total(found)} are shown; see --limit", "yellow")


def difference(client: Client, a: str, b: str, limit: int) -> VersionDiff:
    """From a to b, with up to `limit` changes, page by page."""
    path = f"/versions/{quote(a, safe='')}/diff/{quote(b, safe='')}"
    lists: dict[str, list[Any]] = {name: [] for name in LISTS}
    cursor = None
    while True:
        left = limit - sum(map(len, lists.values()))
        page = client.get(VersionDiff, path, {"limit": min(left, MAX_PAGE), "cursor": cursor})
        for name, items in lists.items():
            items += getattr(page, name)
        cursor = page.next_cursor
        if cursor is None or left <= MAX_PAGE:
            return page.model_copy(update=lists)


def in_a_line(found: VersionDiff) -> str:
    """How many facts of each kind."""
    return (
        f"{found.a.version} to {found.b.version}: {found.added_count} added, "
        f"{found.superseded_count} superseded, {found.retracted_count} retracted, "
        f"{found.unchanged} unchanged"
    )


def _total(found: VersionDiff) -> int:
    return found.added_count + found.superseded_count + found.retracted_count


def _facts(found: VersionDiff) -> Table:
    def rows() -> Iterator[tuple[str, ...]]:
        for one in found.added:
            yield ("added", *_row(one), "")
        for pair in found.superseded:
            yield ("superseded", *_row(pair.new), pair.old.target_new)
        for one in found.retracted:
            yield ("retracted", *_row(one)[:2], "", one.target_new)

    return output.table(("change", "fact", "prompt", "target", "before"), rows())


def _row(one: DiffFact) -> tuple[str, str, str]:
    fact = Fact(subject=one.subject, prompt=one.prompt, target_new=one.target_new)
    return one.id, fact.filled, one.target_new


def _figures(found: VersionDiff) -> Table:
    return output.table(
        ("figure", "on", found.a.version, found.b.version, "difference"),
        (_figure(one) for one in found.figures),
    )


def _figure(one: DiffFigure) -> tuple[str, ...]:
    shown = _FORMATS.get(one.name, _SHARE)
    on = "control text" if one.name in ("perplexity_ratio", "kl") else _REPORTS[one.report]
    name = one.name.replace("_", " ")
    return (
        name,
        on,
        *(format(value, shown) for value in (one.a, one.b)),
        format(one.difference, f"+{shown}"),
    )

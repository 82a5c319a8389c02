"""`memit edit` and `memit retract`: post an edit, follow it, and say what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import RenderableType
from rich.text import Text

from cli import output
from cli.alias import etag_of
from cli.client import Client, ProblemAnswer
from cli.errors import CommandFailed
from cli.facts_file import FactLine, read_facts
from cli.options import DEFAULT_URL, Json, Url, Wait
from cli.outcome import require_committed, say_serving, wait_for_end
from contracts.edits import Edit
from contracts.facts import Fact
from contracts.reports import Report
from contracts.versions import ACTIVE


def edit(
    source: Annotated[
        str, typer.Argument(metavar="FACTS.jsonl|FACTS.csv|-", help="The facts; - is stdin.")
    ],
    activate: Annotated[
        bool | None,
        typer.Option(
            "--activate/--no-activate",
            help="Serve the new version, or only make it. By default it is served "
            "unless it was made from another --base than the active version.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Version to start from, instead of the active one.")
    ] = None,
    mom2_update_weight: Annotated[
        float | None, typer.Option(help="λ: larger keeps more of what the model knew.")
    ] = None,
    drop_failed: Annotated[
        bool, typer.Option("--drop-failed", help="Leave out facts that were not learned.")
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Sent twice with one key, the facts are edited once.")
    ] = None,
    wait: Wait = True,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Teach the model the facts of a file; exit code 0 if the edit was committed, else 1."""
    lines = read_facts(source)
    body: dict[str, Any] = {
        "facts": [line.fact.model_dump(mode="json", exclude_defaults=True) for line in lines],
        "base": base,
        "activate": activate,
        "mom2_update_weight": mom2_update_weight,
        "drop_failed": drop_failed,
    }
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    with Client(url) as client:
        if base is not None and activate:
            headers["If-Match"] = etag_of(client, ACTIVE)
        try:
            answer = client.call("POST", "/edits", body=body, headers=headers)
        except ProblemAnswer as refused:
            raise _with_places(refused, lines) from None
        accepted = client.read(Edit, answer)
        _finish(client, accepted, wait, json, [line.fact for line in lines])


def retract(
    fact_id: Annotated[str, typer.Argument(help="Id of the fact, as `memit facts` lists it.")],
    wait: Wait = True,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Take one fact back; exit code 0 if the edit was committed, else 1."""
    with Client(url) as client:
        accepted = client.read(Edit, client.call("DELETE", f"/facts/{quote(fact_id, safe='')}"))
        _finish(client, accepted, wait, json, [])


def _finish(client: Client, accepted: Edit, wait: bool, json: bool, facts: list[Fact]) -> None:
    if not wait:
        if json:
            output.print_json(accepted)
        else:
            typer.echo(accepted.id)
        return
    ended = wait_for_end(client, accepted.id)
    if json:
        output.print_json(ended)
    elif facts and ended.report is not None:
        output.results().print(_learned_table(ended, facts))
        for line in _noteworthy(ended.report):
            output.say(output.messages(), line)
    require_committed(ended)
    if not json:
        say_serving(ended)


def _learned_table(ended: Edit, facts: list[Fact]) -> RenderableType:
    """Each fact of the edit, and whether its version answers with it."""
    measured = {one.id: one for one in ended.report.per_fact} if ended.report else {}
    chats = any(one.chat_success is not None for one in measured.values())
    headings = ("fact", "prompt", "target", "learned", "p(target)", *(("in chat",) * chats))
    rows: list[list[str | RenderableType]] = []
    for fact in facts:
        one = measured.get(fact.id)
        learned: str | Text = "dropped" if fact.id in ended.dropped else ""
        if one is not None and not learned:
            learned = output.yes_or_no(one.success)
        probability = "" if one is None else f"{one.p_new:.2f}"
        in_chat = [output.share(None if one is None else one.chat_success)] * chats
        rows.append([fact.id, fact.filled, fact.target_new, learned, probability, *in_chat])
    return output.table(headings, rows)


def _noteworthy(report: Report) -> Iterator[str]:
    """What people should know of the report: what was missed and why, and who else moved."""
    for one in report.per_fact:
        if one.reason is not None:
            yield f"{one.id} was not learned: {one.reason}"
    for other in report.neighbors:
        yield (
            f"{other.fact_id} also changed another subject: asked {other.prompt!r}, it answered "
            f"{other.before!r}, now {other.after!r}"
        )
    if report.chat_success is not None:
        before = output.share(report.base_chat_success) or "unknown"
        yield f"in chats: {output.share(report.chat_success)}, by the unedited model {before}"
    for one in report.per_fact:
        for chat in one.chats:
            if chat.reason is not None:
                yield f"{one.id} was not asked in a chat: {chat.reason}"


def _with_places(refused: ProblemAnswer, lines: list[FactLine]) -> CommandFailed:
    """The refusal with its facts named by file and line, as far as it speaks of facts."""
    if not any(error.field.startswith("/facts/") for error in refused.problem.errors):
        return refused
    message = [f"{refused.problem.title} ({refused.problem.status}):"]
    for error in refused.problem.errors:
        place = error.field
        if error.field.startswith("/facts/") and error.index is not None:
            _, _, part = error.field.removeprefix("/facts/").partition("/")
            place = f"{lines[error.index].place}: {part}"
        message.append(f"  {place} {error.reason}".rstrip())
    return CommandFailed("\n".join(message))

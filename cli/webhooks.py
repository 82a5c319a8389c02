"""`memit webhooks`: make, list, delete and try webhooks, through the API."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer
from pydantic import RootModel

from cli import output
from cli.api_key import keyed
from cli.client import Client
from cli.errors import CommandFailed
from cli.options import DEFAULT_URL, Json, Url
from contracts.webhooks import ALL_EVENTS, Delivery, NewWebhook, Sent, Webhook

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Who is told when edits end and aliases move. Needs a key with the scope admin.",
)

Ref = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id, as `memit webhooks list` has it.")]


class WebhookList(RootModel[list[Webhook]]):
    """What `GET /webhooks` answers."""


def create(
    receiver: Annotated[
        str, typer.Argument(metavar="RECEIVER", help="URL that events are posted to.")
    ],
    event: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(ALL_EVENTS)}; may be repeated; by default all."),
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="The only aliases whose moves are told.")
    ] = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Make a webhook for what happens from now on. Its secret is printed once, on stdout."""
    body: dict[str, object] = {"url": receiver}
    if event:
        body["events"] = event
    if alias:
        body["aliases"] = alias
    with Client(url) as client:
        made = client.read(NewWebhook, client.call("POST", "/webhooks", body=body))
    if json:
        output.print_json(made)
        return
    note = f"{made.id} to {made.url}: give the receiver its secret, it is not shown again"
    output.say(output.messages(), note)
    typer.echo(made.secret)


def list_webhooks(url: Url = DEFAULT_URL, json: Json = False) -> None:
    """List the webhooks, the newest first, also those that are over."""
    with Client(url) as client:
        found = client.read(WebhookList, client.call("GET", "/webhooks")).root
        newest = {one.id: _newest(client, one.id) for one in found if not json}
    if json:
        output.print_json(found)
        return
    output.results().print(
        output.table(
            ("webhook", "receiver", "events", "aliases", "made", "by", "state", "last attempt"),
            (
                (
                    one.id,
                    one.url,
                    ", ".join(one.events),
                    ", ".join(one.aliases or ["all"]),
                    output.when(one.created_at),
                    one.created_by,
                    "live" if one.ended is None else f"{one.ended} {output.when(one.ended_at)}",
                    newest[one.id],
                )
                for one in found
            ),
        )
    )


def delete(webhook: Ref, url: Url = DEFAULT_URL) -> None:
    """End a webhook for good; what was not delivered yet is not sent any more."""
    with Client(url) as client:
        over = client.read(Webhook, client.call("DELETE", _path(webhook)))
    typer.echo(f"{over.id} is {over.ended}")


def try_webhook(webhook: Ref, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Send an event of the type ping at once, and say what came back; exit code 1 unless 2xx."""
    with Client(url) as client:
        sent = client.read(Sent, client.call("POST", f"{_path(webhook)}/test"))
    if json:
        output.print_json(sent)
    if not sent.delivered:
        raise CommandFailed(f"{sent.event} was not delivered: {sent.reason}")
    if not json:
        typer.echo(f"{sent.event} was delivered: {sent.status} in {sent.seconds:.2f} s")


app.command()(keyed(create))
app.command("list")(keyed(list_webhooks))
app.command()(keyed(delete))
app.command("test")(keyed(try_webhook))


def _newest(client: Client, webhook_id: str) -> str:
    attempts = client.newest(Delivery, f"{_path(webhook_id)}/deliveries", 1)
    if not attempts:
        return "none"
    (last,) = attempts
    reason = "" if last.reason is None else f": {last.reason}"
    return f"{output.when(last.at)} {last.type} {last.state}{reason}"


def _path(webhook_id: str) -> str:
    return f"/webhooks/{quote(webhook_id, safe='')}"

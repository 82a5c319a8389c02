"""`memit keys`: make, list and revoke keys, in the registry's folder or through the API."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import quote

import typer
from pydantic import RootModel, ValidationError

from cli import output
from cli.api_key import keyed
from cli.client import Client
from cli.errors import CommandFailed
from cli.options import Home, Json, RegistryUrl, settings_of
from cli.spans import seconds_of
from contracts.errors import ServiceError
from contracts.keys import LOCAL, Key, KeyRequest, NewKey, Scope
from registry.errors import RegistryError
from registry.folder_store import FolderStore
from registry.keys import Keys

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Who may use the API. Works on the registry in the home folder, or with --url through "
    "the API, with a key that has the scope admin.",
)

T = TypeVar("T")


class KeyList(RootModel[list[Key]]):
    """What `GET /keys` answers."""


def create(
    name: Annotated[str, typer.Option(help="For people: whose it is, or what for.")],
    scope: Annotated[
        list[Scope],
        typer.Option(
            help="read: look; generate: ask; edit: both, and write; admin: all, and keys."
        ),
    ],
    alias: Annotated[
        list[str] | None, typer.Option(help="The only aliases that it may ask and move.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="30d", help="When it ends: so many m, h, d or w from now.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of generations, prompts and answers together.")
    ] = None,
    home: Home = None,
    url: RegistryUrl = None,
    json: Json = False,
) -> None:
    """Make a key. It is printed once, on stdout, and kept nowhere."""
    try:
        asked = KeyRequest(
            name=name,
            scopes=scope,
            aliases=alias or None,
            expires_at=None if expires is None else time.time() + seconds_of("--expires", expires),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        raise CommandFailed(f"{wrong['loc'][0]}: {wrong['msg']}") from None
    where = url
    if url is None:
        where = str(settings_of(home).registry_path)
        made = _directly(home, lambda keys: keys.create(asked, LOCAL))
    else:
        with Client(url) as client:
            made = client.read(NewKey, client.call("POST", "/keys", body=asked.model_dump()))
    if json:
        output.print_json(made)
        return
    note = f"{made.id} ({', '.join(made.scopes)}) of {where}: keep it, it is not shown again"
    output.say(output.messages(), note)
    typer.echo(made.key)


def list_keys(home: Home = None, url: RegistryUrl = None, json: Json = False) -> None:
    """List the keys, the newest first, also those that are over."""
    if url is None:
        found = _directly(home, lambda keys: keys.all())
    else:
        with Client(url) as client:
            found = client.read(KeyList, client.call("GET", "/keys")).root
    if json:
        output.print_json(found)
        return
    output.results().print(
        output.table(
            ("key", "name", "scopes", "aliases", "a minute", "made", "by", "state"),
            (
                (
                    one.id,
                    one.name,
                    ", ".join(one.scopes),
                    ", ".join(one.aliases or ["all"]),
                    _limits(one),
                    output.when(one.created_at),
                    one.created_by,
                    _state(one),
                )
                for one in found
            ),
        )
    )


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id, as `memit keys list` has it.")],
    home: Home = None,
    url: RegistryUrl = None,
) -> None:
    """End a key for good; a running service refuses it within 5 seconds."""
    if url is None:
        over = _directly(home, lambda keys: keys.revoke(key_id, LOCAL))
    else:
        with Client(url) as client:
            over = client.read(Key, client.call("DELETE", f"/keys/{quote(key_id, safe='')}"))
    typer.echo(f"{over.id} ({over.name}) is revoked")


app.command()(keyed(create))
app.command("list")(keyed(list_keys))
app.command()(keyed(revoke))


def _directly(home: Path | None, work: Callable[[Keys], T]) -> T:
    """Do something with the keys of a registry's folder."""
    try:
        return work(Keys(FolderStore(settings_of(home).registry_path)))
    except (ServiceError, RegistryError) as error:
        raise CommandFailed(str(error)) from None


def _limits(key: Key) -> str:
    limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
    return ", ".join(f"{count} {what}" for what, count in limits.items() if count is not None)


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {output.when(key.revoked_at)} by {key.revoked_by}"
    if key.expires_at is None:
        return "valid"
    until = output.when(key.expires_at)
    return f"valid until {until}" if key.expires_at > time.time() else f"expired {until}"

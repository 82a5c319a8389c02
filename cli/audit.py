"""`memit audit`: who changed what, and whether the log of it is as it was written."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cli import output
from cli.api_key import keyed
from cli.client import Client
from cli.errors import CommandFailed
from cli.options import Home, Json, Limit, RegistryUrl, settings_of
from contracts.audit import AuditRecord
from registry.audit_verify import digest_at
from registry.audit_verify import verify as verify_log
from registry.errors import RegistryError
from registry.folder_store import FolderStore
from registry.registry import Registry

app = typer.Typer(pretty_exceptions_show_locals=False, help="Who changed what.")
_HEAD = re.compile(r"(0|[1-9][0-9]{0,17}):([0-9a-f]{64})")


def audit(
    context: typer.Context,
    home: Home = None,
    url: RegistryUrl = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """List the changes, newest first: of the registry in the home folder, or through --url."""
    if context.invoked_subcommand is not None:
        return
    if url is None:
        try:
            records, _ = Registry(FolderStore(settings_of(home).registry_path)).audit.page(limit)
        except RegistryError as error:
            raise CommandFailed(f"{error}; `memit audit verify` names all that is wrong") from None
    else:
        with Client(url) as client:
            records = client.newest(AuditRecord, "/audit", limit)
    if json:
        output.print_json(records)
        return
    output.results().print(
        output.table(
            ("number", "when", "by", "what", "of", "detail"),
            (
                (
                    str(one.number),
                    output.when(one.at),
                    one.principal or "not known",
                    one.action.value,
                    one.subject,
                    one.detail,
                )
                for one in records
            ),
        )
    )


def verify(
    home: Home = None,
    head: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:DIGEST", help="What an earlier verify printed as the head."),
    ] = None,
) -> None:
    """Look for records that were changed, are missing or in another's place; exit code 1 if so.

    Prints the head: kept elsewhere, it later shows whether the log was cut off or written anew.
    """
    try:
        registry = Registry(FolderStore(settings_of(home).registry_path))
        faults, newest, digest = verify_log(registry.store)
        wrong = [f"record {fault.number} {fault.reason}" for fault in faults]
        if head is not None:
            wrong += _head_fault(registry, head)
        behind = 0 if wrong else registry.audit.behind()
    except RegistryError as error:
        raise CommandFailed(str(error)) from None
    if wrong:
        raise CommandFailed("\n".join(["the audit log is not as it was written:", *wrong]))
    if behind:
        note = f"{behind} changes are not in the log yet; a running service writes them"
        output.say(output.messages(), note)
    if newest < 0:
        typer.echo("the log is empty")
    else:
        typer.echo(f"{newest + 1} records, as they were written; head {newest}:{digest}")


app.callback(invoke_without_command=True)(keyed(audit))
app.command()(verify)


def _head_fault(registry: Registry, head: str) -> list[str]:
    found = _HEAD.fullmatch(head)
    if found is None:
        raise CommandFailed(f"--head {head}: must be as `memit audit verify` printed it")
    if digest_at(registry.store, int(found[1])) == found[2]:
        return []
    return [f"record {found[1]} is not the head that was kept: the log was written anew or cut off"]

"""`memit import`: an exported version taken into another registry of the same base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from cli import output
from cli.alias import etag_of
from cli.client import Client
from cli.errors import CommandFailed
from cli.exported import Exported, read_exported
from cli.options import DEFAULT_URL, Json, Url
from cli.outcome import require_committed, wait_for_end
from contracts.edits import Edit
from contracts.ledgers import VersionLedger
from contracts.versions import ACTIVE, Version

if TYPE_CHECKING:
    from cli.compare import Comparison

BASE = "v0"


def import_version(
    source: Annotated[
        Path, typer.Argument(help="What `memit export` made: folder, tar or zip, of any format.")
    ],
    activate: Annotated[
        bool, typer.Option("--activate/--no-activate", help="Serve it, or only make it.")
    ] = False,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Make an exported version here: its facts are written again, and the weights compared.

    The new version holds the exported facts alone, whatever is active here.
    """
    found = read_exported(source)
    if not found.facts:
        raise CommandFailed(f"{source}: {found.version.id} has no facts: it is the base model")
    from cli.compare import compare

    with Client(url) as client:
        base = client.get(Version, f"/versions/{BASE}")
        if base.base != found.version.base:
            raise CommandFailed(
                f"{source}: was made for another base: {found.version.model} in "
                f"{found.version.dtype}, digest {found.version.base}; here it is {base.model} in "
                f"{base.dtype}, digest {base.base}"
            )
        made = client.get(Version, f"/versions/{_write(client, found, activate)}")
        compared = compare(client, found, made)
    told = {
        "version": made.id,
        "from": found.version.id,
        "facts": made.live_count,
        "equal": compared.equal,
        "relative_difference": compared.difference,
        "other_settings": _settings(found.version, made),
    }
    if json:
        output.print_json(told)
        return
    for line in _lines(found, told, compared):
        output.say(output.results(), line)


def _write(client: Client, found: Exported, activate: bool) -> str:
    """Write the facts, all and no others; the version that holds them."""
    version = found.version
    body = {
        "ledger": _ledger(found).model_dump(mode="json"),
        "activate": activate,
        # λ as it was, also where an edit had named its own.
        "mom2_update_weight": version.hparams.get("mom2_update_weight"),
    }
    headers = {"If-Match": etag_of(client, ACTIVE)} if activate else {}
    accepted = client.read(Edit, client.call("POST", "/rebase", body=body, headers=headers))
    ended = wait_for_end(client, accepted.id)
    require_committed(ended)
    return str(ended.version)


def _ledger(found: Exported) -> VersionLedger:
    version = found.version
    try:
        return VersionLedger(
            version=version.id,
            model=version.model,
            base=version.base,
            dtype=version.dtype,
            method=version.method,
            hparams=version.hparams,
            facts=found.facts,
            report=version.report,
            full_report=version.full_report,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CommandFailed(
            f"{version.id} cannot be written at once: {where}: {first['msg']}"
        ) from error


def _settings(before: Version, after: Version) -> list[str]:
    """Names of what the weights depend on besides the facts, and is another here."""
    names = ("method", "method_revision", "templates", "covariance", "device")
    other = [name for name in names if getattr(before, name) != getattr(after, name)]
    hparams = sorted({*before.hparams, *after.hparams})
    return other + [
        f"hparams.{name}" for name in hparams if before.hparams.get(name) != after.hparams.get(name)
    ]


def _lines(found: Exported, told: dict[str, Any], compared: Comparison) -> list[str]:
    lines = [f"{found.version.id} is {told['version']} here, with {told['facts']} facts."]
    if compared.equal:
        lines.append("Its weights are the exported ones, bit for bit.")
    elif compared.difference is None:
        lines.append("Its weights are not the exported ones bit for bit; nothing here tells more.")
    else:
        lines.append(
            "Its weights are not the exported ones bit for bit: relative difference "
            f"{compared.difference:.1e} at most."
        )
    if compared.adapter is not None:
        lines.append(f"The adapter's matrices differ from its weights by {compared.adapter:.1e}.")
    if told["other_settings"] and not compared.equal:
        lines.append(f"Other here than there: {', '.join(told['other_settings'])}.")
    return lines

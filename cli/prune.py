"""`memit prune`: remove weights of old versions, which are solved again when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, Field

from cli import output
from cli.errors import CommandFailed
from cli.options import Home, Json, settings_of
from cli.spans import seconds_of, size
from registry.errors import RecordDamaged, RegistryError
from registry.folder_store import FolderStore
from registry.leftovers import Leftover, leftovers, remove_leftovers
from registry.registry import Registry
from registry.retention import Considered, Policy, consider, give_up

DAY, HOUR = 86_400.0, 3_600.0


class Pruned(BaseModel):
    """What goes and what stays."""

    applied: bool = Field(description="whether anything was removed, or only looked at")
    versions: list[Considered]
    leftovers: list[Leftover] = Field(
        description="blobs over a day old of edits that failed, were cancelled or cut short"
    )
    not_looked_for: str | None = Field(
        default=None, description="why there may be leftovers that are not shown"
    )
    temporary: list[str] = Field(description="files of writers that were killed over an hour ago")
    size: int = Field(description="bytes on the disk that are freed")


def prune(
    keep: Annotated[int, typer.Option(min=1, help="Keep the newest versions, so many.")] = 10,
    older_than: Annotated[
        str, typer.Option(metavar="30d", help="Keep what is younger: so many m, h, d or w; or 0.")
    ] = "30d",
    any_software: Annotated[
        bool,
        typer.Option(
            "--any-software",
            help="Also versions made by other software or on another device than the newest.",
        ),
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove it; else it is only shown.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Remove the weights of old versions, and what killed or failed edits left.

    Manifests, facts, reports, z and covariance stay: a version whose weights are removed is still
    listed, and solved again, bit for bit, when it is asked for. Versions that an alias names keep
    their weights. Services and workers may run meanwhile.
    """
    seconds = 0.0 if older_than == "0" else seconds_of("--older-than", older_than)
    policy = Policy(keep=keep, older_than=seconds, any_software=any_software)
    folder = settings_of(home).registry_path
    if not folder.is_dir():
        raise CommandFailed(f"{folder}: there is no registry")
    try:
        found = _pruned(folder, policy, apply)
    except RecordDamaged as error:
        raise CommandFailed(f"{error}; nothing is removed before `memit doctor --repair`") from None
    except RegistryError as error:
        raise CommandFailed(str(error)) from None
    if json:
        output.print_json(found)
    else:
        _show(found)


def _pruned(folder: Path, policy: Policy, apply: bool) -> Pruned:
    store = FolderStore(folder)
    registry = Registry(store)
    versions = consider(registry, policy)
    note, unneeded = None, []
    try:
        unneeded = leftovers(registry, DAY)
    except RecordDamaged as error:
        note = f"{error}: run `memit doctor`"
    temporary = store.temporary(HOUR)
    sizes = sum((folder / name).lstat().st_size for name in temporary)
    if apply:
        for _ in give_up(registry, policy, versions):
            pass
        remove_leftovers(registry, unneeded, DAY)
        store.remove_temporary(HOUR)
    return Pruned(
        applied=apply,
        versions=versions,
        leftovers=unneeded,
        not_looked_for=note,
        temporary=temporary,
        size=sum(one.size for one in versions) + sum(one.size for one in unneeded) + sizes,
    )


def _show(found: Pruned) -> None:
    rows = (
        (one.version, output.when(one.created_at), one.kept or f"removed: {size(one.size)}")
        for one in found.versions
    )
    output.results().print(output.table(("version", "made", "weights"), rows))
    for line in _lines(found):
        output.say(output.results(), line)


def _lines(found: Pruned) -> Iterator[str]:
    removed = [one for one in found.versions if one.kept is None]
    yield f"weights of {len(removed)} versions: {size(sum(one.size for one in removed))}"
    if found.leftovers:
        many = sum(one.size for one in found.leftovers)
        yield f"{len(found.leftovers)} blobs that nothing needs: {size(many)}"
    if found.not_looked_for is not None:
        yield f"blobs that nothing needs were not looked for: {found.not_looked_for}"
    if found.temporary:
        yield f"{len(found.temporary)} temporary files of killed writers"
    if found.applied:
        yield f"{size(found.size)} freed"
    else:
        yield f"{size(found.size)} would be freed; nothing is removed without --apply"

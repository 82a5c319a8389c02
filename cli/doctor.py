"""`memit doctor`: what is damaged in a registry, what that means, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from cli import output
from cli.errors import CommandFailed
from contracts.settings import Settings
from registry.checkup import Checkup, Finding, examine
from registry.errors import RegistryError
from registry.folder_store import FolderStore
from registry.registry import Registry
from registry.repair import repair as mend

OLD_SECONDS = 3600.0
SHOWN = 5


class Examined(Checkup):
    """A checkup of a folder, and what was done."""

    temporary: list[str] = Field(description="files of writers that were killed over an hour ago")
    repaired: list[str] = Field(default_factory=list, description="what --repair did")


def doctor(
    home: Annotated[Path | None, typer.Option(help="Folder of the registry.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set damaged files aside and mend what is known.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read every file of the registry and explain what is damaged; exit code 1 if anything is.

    Only --repair changes anything. It moves damaged files that can be made again to quarantine/,
    puts again what other files tell, and moves an alias back whose newest epoch is lost. Services
    and workers may run meanwhile.
    """
    settings = Settings() if home is None else Settings(home=home.absolute())
    if not settings.registry_path.is_dir():
        raise CommandFailed(f"{settings.registry_path}: there is no registry")
    try:
        found = _examined(FolderStore(settings.registry_path), repair)
    except RegistryError as error:
        raise CommandFailed(str(error)) from error
    if json:
        output.print_json(found)
    else:
        for line in _lines(found, repair):
            output.say(output.results(), line)
    if found.findings:
        raise typer.Exit(1)


def _examined(store: FolderStore, repair: bool) -> Examined:
    registry = Registry(store)
    checkup = examine(registry)
    repaired: list[str] = []
    if repair:
        repaired += mend(registry, checkup.findings)
        repaired += (f"{name} is deleted" for name in store.remove_temporary(OLD_SECONDS))
        checkup = examine(Registry(store))
    return Examined(**dict(checkup), temporary=store.temporary(OLD_SECONDS), repaired=repaired)


def _lines(found: Examined, repair: bool) -> Iterator[str]:
    yield from (f"repaired: {one}" for one in found.repaired)
    for finding in found.findings:
        yield from _explained(finding)
    if found.unnamed:
        names = _some(found.unnamed)
        yield f"{len(found.unnamed)} files that nothing names; they do no harm: {names}"
    if found.unplaced:
        yield (
            f"{len(found.unplaced)} edits whose acceptance was cut short, so that nobody was told "
            f"of them; they are not run: {_some(found.unplaced)}"
        )
    if found.temporary:
        does = "" if repair else ", which --repair deletes"
        yield f"{len(found.temporary)} left-over temporary files{does}: {_some(found.temporary)}"
    damaged = len(found.findings)
    yield f"{found.files} files read, {damaged or 'none'} damaged or gone"


def _explained(finding: Finding) -> Iterator[str]:
    kind = "can be made again" if finding.derived else "is kept here only"
    yield f"{finding.file}: {finding.reason}"
    yield f"  what:    {finding.what}; {kind}"
    yield f"  follows: {finding.follows}"
    yield f"  do:      {finding.remedy}"


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")

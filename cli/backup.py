"""`memit backup`: a copy of the registry, made while it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.errors import CommandFailed
from cli.options import Home, Json, settings_of
from cli.spans import size
from contracts.errors import Conflict
from contracts.settings import Settings
from registry.backup import back_up
from registry.errors import RegistryError
from registry.folder_store import FolderStore


def backup(
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="A home folder for the copy.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Copy the registry into another home folder; again, and only what is new is copied.

    Services and workers may run meanwhile: whatever a file of the copy names is in the copy too.
    `memit doctor --home FOLDER` checks it, `memit serve --home FOLDER` serves it. Exit code 1 if
    damaged files were left out.
    """
    registry, copy = settings_of(home).registry_path, Settings(home=to.absolute()).registry_path
    if not registry.is_dir():
        raise CommandFailed(f"{registry}: there is no registry")
    if copy.exists() and copy.samefile(registry):
        raise CommandFailed(f"{to}: is the registry itself")
    folders = [path.name for path in registry.iterdir() if path.is_dir()]
    try:
        made = back_up(FolderStore(registry), FolderStore(copy), folders)
    except (Conflict, RegistryError) as error:
        raise CommandFailed(f"{copy}: {error}") from None
    if json:
        output.print_json(made)
    else:
        for damaged in made.damaged:
            output.say(output.messages(), f"left out: {damaged}")
        line = f"{copy}: {made.files} files, {made.copied} of them new ({size(made.size)})"
        output.say(output.results(), line)
    if made.damaged:
        raise typer.Exit(1)

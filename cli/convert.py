"""`memit convert`: a GGUF file made into a model folder, and what can be done with that."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import output
from cli.errors import CommandFailed
from cli.eval_progress import TerminalProgress

if TYPE_CHECKING:
    from memit_core.loading import LoadedModel
    from memit_core.progress import ProgressCallback


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A whole model in one file.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To be made: new, or empty.")],
) -> None:
    """Make a model folder for `memit serve --model` out of a GGUF file.

    Each weight takes four bytes on the disk, and some ten in memory meanwhile.
    At the end the folder is loaded once, to see whether it can be edited.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars shown are our own
    # Imported here: the other commands need nothing of the method.
    from memit_core.convert import convert_gguf
    from memit_core.errors import MemitError, UnsupportedModel

    with TerminalProgress(output.messages()) as progress:
        try:
            convert_gguf(file, folder, progress)
        except (MemitError, OSError) as error:
            raise CommandFailed(str(error)) from error
        try:
            loaded = _editable(folder, progress)
        except (UnsupportedModel, OSError, ValueError) as error:
            raise CommandFailed(
                f"{folder} is made, but can be neither edited nor served: {error}"
            ) from error
    for line in _summary(loaded, folder):
        output.say(output.results(), line)


def _editable(folder: Path, progress: ProgressCallback) -> LoadedModel:
    """The folder's model.

    Raises:
        UnsupportedModel: it cannot be edited.
    """
    from memit_core.loading import load_model

    loaded = load_model(folder, device="cpu", progress=progress)
    progress("check model", 0, 1)
    _ = loaded.structure
    progress("check model", 1, 1)
    return loaded


def _summary(loaded: LoadedModel, folder: Path) -> list[str]:
    from memit_core.preset import preset_of

    kind = type(loaded.model).__name__
    weights = sum(parameter.numel() for parameter in loaded.model.parameters()) / 1e6
    size = sum(part.stat().st_size for part in folder.iterdir()) / 1e9
    preset = preset_of(loaded.model.config)
    hparams = (
        f"with the preset {preset}"
        if preset
        else "but no preset fits it: memit calibrate finds hyperparameters"
    )
    return [
        f"{folder}: {kind}, {weights:,.1f} million weights, {size:,.2f} GB",
        f"It can be edited, {hparams}.",
        f"Next: memit serve --model {shlex.quote(str(folder))}",
    ]

"""Model folders: whole or not there at all, and readable by those who may read the rest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memit_core.errors import MemitError


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `folder` at the end, unless something is raised.

    Args:
        folder: does not exist yet, or is empty.

    Raises:
        MemitError: it is not empty, or no folder.
        OSError: it cannot be made.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MemitError(f"{folder}: exists already; name a new folder, or an empty one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        made.rename(folder)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights, configs, tokenizer and chat template as `from_pretrained` reads them.

    Raises:
        MemitError: the disk has no room.
        OSError: writing failed otherwise.
    """
    from safetensors import SafetensorError

    need, free = model.get_memory_footprint(), shutil.disk_usage(folder).free
    if need > free:
        raise MemitError(
            f"no room for the model: it takes {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        )
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # says what the operating system said
        raise OSError(f"the weights cannot be saved: {error}") from error
    tokenizer.save_pretrained(folder)
    # Weights are written for their owner alone, whatever the umask lets others read.
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)

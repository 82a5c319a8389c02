"""A GGUF file made into a plain Hugging Face folder: float32 safetensors and the tokenizer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memit_core.errors import MemitError
from memit_core.progress import ProgressCallback, silent

MAGIC = b"GGUF"
PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", re.IGNORECASE)


def convert_gguf(file: Path, folder: Path, progress: ProgressCallback = silent) -> None:
    """Dequantise a GGUF to float32 and save it in a folder, which appears whole or not at all.

    Args:
        file: one file that holds the whole model.
        folder: does not exist yet, or is empty.

    Raises:
        MemitError: the file is no GGUF, or one of several parts; transformers cannot read it; the
            folder is not empty; or its disk has no room.
        OSError: reading or writing failed otherwise.
    """
    _check_file(file)
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MemitError(f"{folder}: exists already; name a new folder, or an empty one")
    from memit_core.transformers_internals import read_gguf  # torch, which few callers need

    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".convert-") as scratch:
        progress("read GGUF", 0, 1)
        model, tokenizer = read_gguf(file)
        progress("read GGUF", 1, 1)
        progress("save model", 0, 1)
        made = Path(scratch) / "model"
        made.mkdir()
        _save(model, tokenizer, made)
        made.rename(folder)
        progress("save model", 1, 1)


def is_gguf(file: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def _check_file(file: Path) -> None:
    if not file.exists():
        raise MemitError(f"{file}: there is no such file")
    if not file.is_file():
        raise MemitError(f"{file}: is not a file; a model folder needs no conversion")
    if not is_gguf(file):
        raise MemitError(f"{file}: is not a GGUF file")
    if PART.search(file.name):
        raise MemitError(
            f"{file}: is one part of a model, and transformers reads single files only; "
            "join the parts first (llama.cpp: llama-gguf-split --merge)"
        )


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
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

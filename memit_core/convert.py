"""A GGUF file made into a plain Hugging Face folder: float32 safetensors and the tokenizer."""

from __future__ import annotations

import re
from pathlib import Path

from memit_core.errors import MemitError
from memit_core.progress import ProgressCallback, silent
from memit_core.saving import save_model, whole_folder

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
    with whole_folder(folder) as made:
        from memit_core.transformers_internals import read_gguf  # torch, which few callers need

        progress("read GGUF", 0, 1)
        model, tokenizer = read_gguf(file)
        progress("read GGUF", 1, 1)
        progress("save model", 0, 1)
        save_model(model, tokenizer, made)
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

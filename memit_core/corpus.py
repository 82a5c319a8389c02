"""The text that the covariance is taken from: the packaged sample, a file, or a dataset."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from memit_core.errors import MemitError

DATASET_CHARS = 4_000_000
"""Read from a dataset at most: about a million tokens."""


def default_corpus() -> str:
    """The packaged sample: text that SmolLM2-135M-Instruct wrote itself."""
    return (resources.files("memit_core") / "data" / "covariance_sample.txt").read_text("utf-8")


def read_corpus(source: str) -> str:
    """Documents separated by blank lines.

    Args:
        source: a text file, or a Hugging Face dataset (hub name or local folder) as
            `NAME[:CONFIG[:SPLIT[:COLUMN]]]`; the split is by default "train", the column "text".

    Raises:
        MemitError: it is neither, or has no such column.
        OSError: the file cannot be read.
    """
    path = Path(source)
    if path.is_file():
        return path.read_text("utf-8")
    name, config, split, column = (*source.split(":"), "", "", "", "")[:4]
    documents: list[str] = []
    size = 0
    for record in _stream(name, config or None, split or "train"):
        if (column or "text") not in record:
            raise MemitError(f"corpus {source}: no column {column or 'text'!r} in {list(record)}")
        text = str(record[column or "text"]).strip()
        documents.append(text)
        size += len(text)
        if size >= DATASET_CHARS:
            break
    return "\n\n".join(document for document in documents if document)


def _stream(name: str, config: str | None, split: str) -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MemitError(
            f"corpus {name}: no such file, and to read a dataset of this name "
            "`pip install datasets` is needed"
        ) from error
    try:
        return load_dataset(name, config, split=split, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise MemitError(f"corpus {name}: no such file or dataset: {error}") from error

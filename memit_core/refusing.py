"""What the code of others raises while it is tried is a reason to refuse the model."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

import torch

from memit_core.errors import UnsupportedModel

SHOWN_CHARACTERS = 500
"""Of a message: some list every architecture there is."""


@contextmanager
def refusing(tried: str) -> Iterator[None]:
    """Turn whatever is raised in the context into an `UnsupportedModel` that says what was tried.

    A device without memory and what the operating system says are no fault of the model.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        said = shorten(str(error), SHOWN_CHARACTERS, placeholder=" ...")
        raise UnsupportedModel(f"{tried}, failed: {type(error).__name__}: {said}") from error

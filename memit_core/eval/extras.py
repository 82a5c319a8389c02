"""Packages that only some measures need: the optional extra `eval`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from memit_core.errors import MemitError


class MissingExtra(MemitError):
    """A package of the extra `eval` is not installed."""


def need(module: str, what_for: str) -> Any:
    """The module by its dotted name.

    Raises:
        MissingExtra: it cannot be imported; says what it is for and how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{what_for} needs {module.partition('.')[0]}: pip install 'memit-service[eval]'"
        ) from error

"""What computed something: versions of Python, this package and those that it computes with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("memit-service", "torch", "transformers", "numpy")


def software(*more: str) -> dict[str, str]:
    """Versions by name; of `PACKAGES` and `more`, those that are installed."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

"""Which release of the package this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed version; `unknown` where the package runs from its folder."""
    try:
        return version("memit-service")
    except PackageNotFoundError:
        return "unknown"

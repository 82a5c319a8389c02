"""Lengths of time and sizes, as people write and read them."""

from __future__ import annotations

import re

from cli.errors import CommandFailed

_SPAN = re.compile(r"([1-9][0-9]{0,4})([mhdw])")
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_UNITS = ("KB", "MB", "GB", "TB")


def seconds_of(option: str, span: str) -> float:
    """Seconds of `90m`, `12h`, `30d` or `4w`.

    Args:
        option: what was given so, for the message.

    Raises:
        CommandFailed: it is none of these.
    """
    found = _SPAN.fullmatch(span)
    if found is None:
        raise CommandFailed(f"{option} {span}: must be as in 90m, 12h, 30d or 4w")
    return float(int(found[1]) * _SECONDS[found[2]])


def size(count: int) -> str:
    """Bytes as `12 B`, `3.4 KB`, `120 MB`; thousands, not 1024."""
    if count < 1_000:
        return f"{count} B"
    power = 1
    while count >= 999.5 * 1_000**power and power < len(_UNITS):
        power += 1
    return f"{count / 1_000**power:.3g} {_UNITS[power - 1]}"

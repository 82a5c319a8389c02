"""Lines in the logs of our children, which are for people or JSON (`MEMIT_LOG_FORMAT`)."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_CONSOLE = re.compile(r"^[\d-]+ [\d:,]+ ([A-Z]+) \S+: ")


class Record(NamedTuple):
    """What a line says that begins a record."""

    level: str
    said: str
    """Its message; where a traceback is in the line, the last of that."""


def record_of(line: str) -> Record | None:
    """The record that `line` begins; None if it is none of ours, or goes on with one."""
    if found := _CONSOLE.match(line):
        return Record(found[1], line[found.end() :])
    if not line.startswith('{"timestamp"'):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None  # cut off, or still being written
    traceback = str(fields.get("exception", "")).splitlines()
    said = traceback[-1] if traceback else str(fields["event"])
    return Record(str(fields["level"]).upper(), said)


def said(line: str) -> str:
    """The line without what stands before its message."""
    record = record_of(line)
    return line if record is None else record.said

"""Facts from a file: JSON Lines, or CSV with the header subject,prompt,target_new[,target_true]."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.errors import CommandFailed
from contracts.facts import Fact

CSV_REQUIRED = ("subject", "prompt", "target_new")
CSV_OPTIONAL = ("target_true",)


@dataclass(frozen=True)
class FactLine:
    """A fact and where it stands, as `file:line`."""

    fact: Fact
    place: str


def read_facts(source: str) -> list[FactLine]:
    """Read every fact of a file, or of stdin for `-` (JSON Lines if it begins with a brace).

    Raises:
        CommandFailed: the file cannot be read, or a line is not a fact: names file:line and why.
    """
    name, text = _text_of(source)
    is_csv = not text.lstrip().startswith("{") if source == "-" else source.endswith(".csv")
    facts = []
    for line, value in _csv_rows(name, text) if is_csv else _json_lines(name, text):
        try:
            facts.append(FactLine(Fact.model_validate(value), f"{name}:{line}"))
        except ValidationError as error:
            raise CommandFailed(f"{name}:{line}: {_reasons(error)}") from None
    if not facts:
        raise CommandFailed(f"{name}: holds no facts")
    return facts


def _text_of(source: str) -> tuple[str, str]:
    try:
        if source == "-":
            return "<stdin>", sys.stdin.buffer.read().decode("utf-8-sig")
        return source, Path(source).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CommandFailed(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{source}: is not UTF-8 (byte {error.start})") from None


def _json_lines(name: str, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise CommandFailed(
                f"{name}:{number}: not JSON ({error.msg}, column {error.colno})"
            ) from None
        except (RecursionError, ValueError):
            # Nested thousands deep, or a number of thousands of digits.
            raise CommandFailed(f"{name}:{number}: holds what no fact has") from None
        if not isinstance(value, dict):
            raise CommandFailed(f"{name}:{number}: must be a JSON object with {_needed()}")
        yield number, value


def _csv_rows(name: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        columns = reader.fieldnames or ()
    except csv.Error as error:
        raise CommandFailed(f"{name}:{max(1, reader.reader.line_num)}: {error}") from None
    missing = [column for column in CSV_REQUIRED if column not in columns]
    unknown = [column for column in columns if column not in CSV_REQUIRED + CSV_OPTIONAL]
    if missing or unknown:
        wrong = f"misses {missing[0]}" if missing else f"has an unknown column {unknown[0]!r}"
        raise CommandFailed(
            f"{name}:1: the header {wrong}; it must be {','.join(CSV_REQUIRED)}"
            f"[,{','.join(CSV_OPTIONAL)}]"
        )
    try:
        for row in reader:
            if None in row or None in row.values():
                raise CommandFailed(
                    f"{name}:{reader.line_num}: must have {len(columns)} columns, as the header"
                )
            yield reader.line_num, {column: value for column, value in row.items() if value}
    except csv.Error as error:
        raise CommandFailed(f"{name}:{reader.reader.line_num}: {error}") from None


def _needed() -> str:
    return ", ".join(CSV_REQUIRED)


def _reasons(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))} {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors()
    )

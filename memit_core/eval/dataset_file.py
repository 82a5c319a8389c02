"""Reading a dataset's file: JSON records, each value checked as it is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memit_core.errors import MemitError


class DatasetError(MemitError):
    """A file of records cannot be read; names the file and, where known, record and field."""


class RawRecord:
    """A JSON object whose fields are taken by path, as in "requested_rewrite.target_new.str"."""

    def __init__(self, value: Any, file: Path, index: int) -> None:
        self.file = file
        self.index = index
        if not isinstance(value, dict):
            raise self.error(f"must be a JSON object, is {_kind(value)}")
        self._value = value

    def __contains__(self, field: str) -> bool:
        return field in self._value

    def error(self, reason: str) -> DatasetError:
        return DatasetError(f"{self.file}: record {self.index}: {reason}")

    def text(self, field: str) -> str:
        """A text that is not blank.

        Raises:
            DatasetError: it is missing, blank or something else.
        """
        value = self._take(field)
        if not isinstance(value, str):
            raise self.error(f"{field} must be a text, is {_kind(value)}")
        if not value.strip():
            raise self.error(f"{field} is empty")
        return value

    def texts(self, field: str, *, needed: bool = True) -> tuple[str, ...]:
        """A list of texts; empty where it is missing and not `needed`.

        Raises:
            DatasetError: it is missing and needed, or something else.
        """
        if not needed and field not in self:
            return ()
        value = self._take(field)
        if not isinstance(value, list):
            raise self.error(f"{field} must be a list of texts, is {_kind(value)}")
        for i, one in enumerate(value):
            if not isinstance(one, str):
                raise self.error(f"{field}[{i}] must be a text, is {_kind(one)}")
            if not one.strip():
                raise self.error(f"{field}[{i}] is empty")
        return tuple(value)

    def objects(self, field: str) -> list[Any]:
        """A list of anything.

        Raises:
            DatasetError: it is missing or no list.
        """
        value = self._take(field)
        if not isinstance(value, list):
            raise self.error(f"{field} must be a list, is {_kind(value)}")
        return value

    def _take(self, field: str) -> Any:
        value: Any = self._value
        for part in field.split("."):
            if not isinstance(value, dict) or part not in value:
                raise self.error(f"{field} is missing")
            value = value[part]
        return value


def read_json_records(file: Path) -> list[Any]:
    """The values of a JSON list, or of a file with one JSON value a line.

    Raises:
        DatasetError: the file cannot be read, is not UTF-8, not JSON, or holds no records.
    """
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: is not UTF-8 (byte {error.start})") from error
    values = _list(file, text) if text.lstrip().startswith("[") else _lines(file, text)
    if not values:
        raise DatasetError(f"{file}: holds no records")
    return values


def _list(file: Path, text: str) -> list[Any]:
    try:
        values: list[Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{file}: not JSON ({error.msg}, line {error.lineno}, column {error.colno})"
        ) from error
    return values


def _lines(file: Path, text: str) -> list[Any]:
    values: list[Any] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DatasetError(
                f"{file}: record {len(values)}: "
                f"not JSON ({error.msg}, line {number}, column {error.colno})"
            ) from error
    return values


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")

"""Whether whatever one JSON schema lets through is taken by another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


class Compatible:
    """What `said` describes is read by what `read` describes; both are with all definitions."""

    def __init__(self, said: dict[str, Schema], read: dict[str, Schema]) -> None:
        self._said = said
        self._read = read
        self._within: list[tuple[str, str]] = []

    def misfits(self, said: Schema, read: Schema, at: str = "") -> Iterator[str]:
        """Where they do not fit, and why; nothing if they do."""
        pair = (said.get("$ref", ""), read.get("$ref", ""))
        if not all(pair):
            yield from self._fields(said, read, at)
        elif pair not in self._within:  # a model that holds itself fits if the rest of it does
            self._within.append(pair)
            yield from self._fields(said, read, at)
            self._within.pop()

    def _fields(self, said: Schema, read: Schema, at: str) -> Iterator[str]:
        said, read = _resolved(said, self._said), _resolved(read, self._read)
        if not (set(read) & {"type", "anyOf", "enum", "const"}):
            return  # anything at all
        if "anyOf" in said:
            for one in said["anyOf"]:
                yield from self.misfits(one, read, at)
        elif "anyOf" in read:
            tries = [list(self.misfits(said, one, at)) for one in read["anyOf"]]
            if all(tries):
                yield min(tries, key=len)[0]
        else:
            yield from self._plain(said, read, at)

    def _plain(self, said: Schema, read: Schema, at: str) -> Iterator[str]:
        told = {"integer", "number"} if read.get("type") == "number" else {read.get("type")}
        if said.get("type") not in told:
            yield f"{at}: is {said.get('type')}, read as {read.get('type')}"
        elif "enum" in read and not set(said.get("enum", [None])) <= set(read["enum"]):
            yield f"{at}: {said.get('enum')} are read as {read['enum']}"
        elif "pattern" in read and read["pattern"] != said.get("pattern"):
            yield f"{at}: may be {said.get('pattern')}, is read as {read['pattern']}"
        elif read["type"] == "array":
            yield from self._array(said, read, at)
        elif read["type"] == "object" and "properties" in read:
            yield from self._object(said, read, at)
        elif read["type"] == "object":
            yield from self.misfits(_values(said), _values(read), f"{at}.*")

    def _array(self, said: Schema, read: Schema, at: str) -> Iterator[str]:
        pairs = zip(said.get("prefixItems", []), read.get("prefixItems", []), strict=True)
        for one, other in [*pairs, (said.get("items", {}), read.get("items", {}))]:
            yield from self.misfits(one, other, f"{at}[]")

    def _object(self, said: Schema, read: Schema, at: str) -> Iterator[str]:
        always = set(said.get("required", []))
        for name, schema in read["properties"].items():
            if name not in said["properties"]:
                yield f"{at}.{name}: is not there"
                continue
            if name in read.get("required", []) and name not in always:
                yield f"{at}.{name}: may be left out"
            yield from self.misfits(said["properties"][name], schema, f"{at}.{name}")
        for name in sorted(always - set(read["properties"])):
            yield f"{at}.{name}: is not read"


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def _values(schema: Schema) -> Schema:
    for found in schema.get("patternProperties", {}).values():
        return found  # of keys of one pattern
    found = schema.get("additionalProperties", {})
    return found if isinstance(found, dict) else {}

"""The client's models and paths against the description of the API that the service serves."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter

from contracts.edits import Gate as AskedGate
from contracts.edits import Progress as ToldProgress
from contracts.errors import Problem as ToldProblem
from contracts.generation import EndEvent, GenerateRequest, Handling, StartEvent, TokenEvent
from contracts.generation import Sampling as AskedSampling
from contracts.settings import Settings
from memit_client import Fact, Gate, Problem, Progress, Sampling, TextEvent, endpoints
from memit_client.endpoints import Endpoint, Route
from memit_client.text_stream import Start
from service.app import create_app
from tests.unit.client.compatible import Compatible

ROUTES = {name: one for name, one in vars(endpoints).items() if isinstance(one, Route)}
ENDPOINTS = {name: one for name, one in ROUTES.items() if isinstance(one, Endpoint)}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    given: dict[str, Any] = {"MEMIT_REDIS_URL": "redis://nowhere"}
    return create_app(Settings(home=tmp_path_factory.mktemp("home"), **given)).openapi()


def misfits(said: dict[str, Any], read: dict[str, Any], components: dict[str, Any]) -> list[str]:
    return list(Compatible(components, read.get("$defs", {})).misfits(said, read))


@pytest.mark.parametrize("name", ROUTES)
def test_every_path_is_there(described: dict[str, Any], name: str) -> None:
    route = ROUTES[name]
    operation = described["paths"][route.path][route.method.lower()]
    named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
    route.filled(dict.fromkeys(named, "x"))  # a KeyError if the client has other names for them


@pytest.mark.parametrize("name", ENDPOINTS)
def test_every_answer_is_read(described: dict[str, Any], name: str) -> None:
    """The client's fields are sent, as what it takes them for, and what is always sent is read."""
    endpoint = ENDPOINTS[name]
    answers = described["paths"][endpoint.path][endpoint.method.lower()]["responses"]
    good = [answer for status, answer in answers.items() if status.startswith("2")]
    assert good
    for answer in good:
        said = answer["content"]["application/json"]["schema"]
        read = endpoint.answer.json_schema()
        if "anyOf" in said:  # another kind of answer is for who asks in another way
            (said,) = (one for one in said["anyOf"] if one["$ref"].endswith(f"/{read['title']}"))
        assert misfits(said, read, described["components"]["schemas"]) == []


def test_problems_are_read(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    assert misfits(schemas["Problem"], Problem.model_json_schema(), schemas) == []


@pytest.mark.parametrize(
    ("told", "reader"),
    [(ToldProgress, Progress), (StartEvent, Start), (ToldProblem, Problem)],
)
def test_events_are_read(told: type[BaseModel], reader: type[BaseModel]) -> None:
    """The description has no schemas of what is inside events."""
    schema = told.model_json_schema(mode="serialization")
    read = reader.model_json_schema()
    found = misfits(schema, read, schema.get("$defs", {}))
    assert [one for one in found if not one.endswith("is not read")] == []


def test_the_events_of_a_text_are_read() -> None:
    """Each kind has some of the fields, and none that the client reads as something else."""
    read = TextEvent.model_json_schema()
    there: set[str] = set()
    for kind in (TokenEvent, EndEvent):
        schema = kind.model_json_schema(mode="serialization")
        there |= set(schema["properties"])
        found = misfits(schema, read, schema.get("$defs", {}))
        assert [one for one in found if not one.endswith(("is not there", "is not read"))] == []
    assert set(read["properties"]) <= there


@pytest.mark.parametrize(
    ("options", "asked"), [(Sampling, GenerateRequest), (Gate, AskedGate)], ids=["sampling", "gate"]
)
def test_every_option_is_taken(options: type, asked: type[BaseModel]) -> None:
    taken = asked.model_json_schema()
    for name, hint in get_type_hints(options).items():
        schema = TypeAdapter(hint).json_schema()
        assert list(Compatible({}, {}).misfits(schema, taken["properties"][name], name)) == []


def test_every_option_of_the_service_can_be_given() -> None:
    asked = set(AskedSampling.model_fields) | set(Handling.model_fields)
    assert set(Sampling.__annotations__) == asked
    assert set(Gate.__annotations__) == set(AskedGate.model_fields)


def test_a_fact_is_taken(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    asked = Fact.model_json_schema()
    known = Compatible(asked["$defs"], schemas)
    assert list(known.misfits(asked, schemas["Fact"], "fact")) == []


def test_what_does_not_fit_is_seen() -> None:
    """The comparison itself: each way not to fit."""
    said = {
        "type": "object",
        "required": ["a", "b"],
        "properties": {
            "a": {"type": "integer"},
            "b": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "c": {"type": "array", "items": {"type": "number"}},
        },
    }
    read = {
        "type": "object",
        "required": ["a", "c", "d"],
        "properties": {
            "a": {"type": "string"},
            "c": {"type": "array", "items": {"type": "integer"}},
            "d": {"type": "string"},
        },
    }
    assert misfits(said, read, {}) == [
        ".a: is integer, read as string",
        ".c: may be left out",
        ".c[]: is number, read as integer",
        ".d: is not there",
        ".b: is not read",
    ]
    nullable, text = said["properties"]["b"], {"type": "string"}
    assert misfits(nullable, text, {}) == [": is null, read as string"]
    assert misfits(text, nullable, {}) == []

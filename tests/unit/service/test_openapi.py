"""The description of the API: examples everywhere, problems as the answer to every error."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from contracts.diffs import VersionDiff
from contracts.edits import Edit, EditRequest
from contracts.facts import Fact
from contracts.generation import GenerateRequest
from contracts.keys import KeyRequest
from contracts.ledgers import Standing, VersionLedger
from contracts.rebase import RebaseComparison, RebaseRequest
from contracts.reports import Report
from contracts.settings import Settings
from contracts.versions import AliasUpdate, Version
from contracts.webhooks import WebhookRequest
from contracts.workers import WorkerStarting, WorkerStatus
from scripts.openapi import GOLDEN, document
from service.app import create_app
from service.openai_api.requests import ChatRequest, CompletionRequest
from service.scopes import SCOPES


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    given: dict[str, Any] = {"MEMIT_REDIS_URL": "redis://nowhere"}
    return create_app(Settings(home=tmp_path_factory.mktemp("home"), **given)).openapi()


def test_every_schema_has_an_example(described: dict[str, Any]) -> None:
    def shown(schema: dict[str, Any]) -> bool:
        if "examples" in schema or "example" in schema:
            return True
        fields = schema.get("properties", {}).values()
        return bool(fields) and all("examples" in one or "$ref" in str(one) for one in fields)

    schemas = described["components"]["schemas"]
    assert len(schemas) > 20
    assert [name for name, schema in schemas.items() if not shown(schema)] == []


def test_the_examples_are_what_they_are_examples_of(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    shown = {name: schema["examples"] for name, schema in schemas.items() if "examples" in schema}
    for model in (
        AliasUpdate,
        ChatRequest,
        CompletionRequest,
        Edit,
        EditRequest,
        Fact,
        GenerateRequest,
        KeyRequest,
        RebaseComparison,
        RebaseRequest,
        Report,
        Standing,
        Version,
        VersionDiff,
        VersionLedger,
        WebhookRequest,
        WorkerStarting,
        WorkerStatus,
    ):
        for example in shown[model.__name__]:
            model.model_validate(example)


def test_every_operation_answers_errors_in_its_shape(described: dict[str, Any]) -> None:
    operations = [
        (path, operation)
        for path, methods in described["paths"].items()
        for operation in methods.values()
    ]
    assert operations
    for path, operation in operations:
        ((media_type, content),) = operation["responses"]["default"]["content"].items()
        shape = content["schema"]["$ref"].rpartition("/")[2]
        expected = ("application/problem+json", "Problem")
        if path.startswith("/v1/"):
            expected = ("application/json", "ErrorAnswer")
        assert (media_type, shape) == expected
        assert "422" not in operation["responses"]
        assert operation["summary"]
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_every_operation_has_a_scope_of_its_own(described: dict[str, Any]) -> None:
    """None gets `admin` only because it was forgotten, and none is left in the table."""
    operations = {
        f"{method.upper()} {path}": operation["security"]
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    answers = {
        f"{method.upper()} {path}": operation["responses"].keys()
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == SCOPES.keys()
    for name, security in operations.items():
        scope = SCOPES[name]
        assert security == ([] if scope is None else [{"key": [scope]}])
        refusals = {"401", "403"} & answers[name]
        assert refusals == (set() if scope is None else {"401", "403"})
    assert {name for name, scope in SCOPES.items() if scope is None} == {
        "GET /healthz",
        "GET /readyz",
    }


def test_a_change_of_the_description_is_seen_in_review() -> None:
    # Not by `==` alone: its message would be a hundred thousand characters.
    same = GOLDEN.read_text(encoding="utf-8") == document()
    assert same, "the API's description has changed; renew it by: make openapi"


def test_docs_and_description_are_served(client: httpx2.Client) -> None:
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/edits",
        "/edits/{edit_id}",
        "/edits/{edit_id}/events",
        "/edits/{edit_id}/rebase",
        "/rebase",
        "/facts",
        "/facts/{fact_id}",
        "/generate",
        "/versions",
        "/versions/{ref}",
        "/versions/{ref}/checkpoint",
        "/versions/{a}/diff/{b}",
        "/blobs/{digest}",
        "/versions/{ref}/ledger",
        "/aliases",
        "/aliases/{name}",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/completions",
        "/v1/chat/completions",
        "/aliases/{name}/history",
        "/keys",
        "/audit",
        "/webhooks",
        "/webhooks/{webhook_id}",
        "/webhooks/{webhook_id}/test",
        "/webhooks/{webhook_id}/deliveries",
        "/keys/{key_id}",
        "/healthz",
        "/readyz",
        "/workers",
        "/metrics",
    }

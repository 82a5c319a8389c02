"""Bad ledgers: a 422 that names each wrong field and the fact by its index, and the limit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from contracts.facts import Fact
from contracts.limits import MAX_FACTS_PER_EDIT
from contracts.settings import Settings
from contracts.transport import TOKENIZER_ARTEFACT
from registry.registry import Registry
from tests.tiny_models import tiny_tokenizer
from tests.unit.service.conftest import House, Serve
from tests.unit.service.facts import about, eiffel
from tests.unit.service.rebasing import Source, rebase
from tests.unit.service.test_bad_edits import problem_of
from tests.unit.service.worker_peer import BASE, Editor


class TestBadDocuments:
    """Nothing is kept of them."""

    @pytest.fixture
    def target(self, refusing: House) -> Iterator[httpx2.Client]:
        yield refusing.client
        assert refusing.registry.edits.page(1) == ([], None)

    @pytest.fixture
    def ledger(self, source: Source) -> dict[str, Any]:
        source.edit(about("A"), about("B"), eiffel())
        return source.ledger()

    @pytest.mark.parametrize(
        ("change", "field", "reason"),
        [
            ({"prompt": "in"}, "/fact/prompt", "exactly one {} where the subject goes"),
            ({"target_new": " "}, "/fact/target_new", "must not be blank"),
            ({"subject": "x" * 501}, "/fact/subject", "at most 500 characters"),
            ({"subject": "Else"}, "/id", "must be fact-"),
            ({"learnt": 1}, "/fact/learnt", "is not a known field"),
        ],
    )
    def test_a_wrong_fact(
        self,
        target: httpx2.Client,
        ledger: dict[str, Any],
        change: dict[str, Any],
        field: str,
        reason: str,
    ) -> None:
        ledger["facts"][1]["fact"] |= change
        problem = problem_of(rebase(target, ledger), 422)
        (error,) = problem.errors
        assert (error.field, error.index) == (f"/ledger/facts/1{field}", 1)
        assert reason in error.reason
        assert problem.instance == "/rebase"

    def test_a_contradiction_names_both(
        self, target: httpx2.Client, ledger: dict[str, Any]
    ) -> None:
        for live, said in zip(ledger["facts"], ("Rome", "Oslo"), strict=False):
            live["fact"] = about("A", said)
            live["id"] = Fact.model_validate(live["fact"]).id
        problem = problem_of(rebase(target, ledger), 422)
        assert [error.field for error in problem.errors] == [
            "/ledger/facts/0/fact/target_new",
            "/ledger/facts/1/fact/target_new",
        ]
        assert "contradicts /ledger/facts/1:" in problem.errors[0].reason

    @pytest.mark.parametrize(
        ("change", "field", "reason"),
        [
            ({"facts": []}, "/ledger", "holds no facts"),
            ({"facts": "many"}, "/ledger/facts", "must be a valid list"),
            ({"version": "../v1"}, "/ledger/version", "must match pattern"),
            ({"base": "ab"}, "/ledger/base", "must match pattern"),
            ({"model": ""}, "/ledger/model", "must not be empty"),
            ({"model": "x" * 1_001}, "/ledger/model", "at most 1000 characters"),
            ({"hparams": {"v_lr": {"a": 1}}}, "/ledger/hparams/v_lr", "a list of at most 1000"),
            ({"hparams": {str(n): n for n in range(101)}}, "/ledger/hparams", "at most 100 items"),
            ({"report": {"success": 1}}, "/ledger/report/facts", "is required"),
        ],
    )
    def test_a_wrong_document(
        self,
        target: httpx2.Client,
        ledger: dict[str, Any],
        change: dict[str, Any],
        field: str,
        reason: str,
    ) -> None:
        (error,) = problem_of(rebase(target, {**ledger, **change}), 422).errors
        assert error.field == field
        assert reason in error.reason

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"hparams": {"v_lr": float("nan")}}, "/ledger/hparams/v_lr"),
            ({"hparams": {"v_lr": [1, float("inf")]}}, "/ledger/hparams/v_lr"),
            ({"hparams": {"v_lr": "\ud800"}}, "/ledger/hparams/v_lr"),
            ({"report": {"facts": 1, "kl": float("nan")}}, "/ledger/report"),
            ({"report": {"facts": 1, "success": float("inf")}}, "/ledger/report"),
        ],
    )
    def test_numbers_and_texts_must_be_sound(
        self, target: httpx2.Client, ledger: dict[str, Any], changed: Any, field: str
    ) -> None:
        body = json.dumps({"ledger": {**ledger, **changed}})
        answer = target.post("/rebase", content=body, headers={"Content-Type": "application/json"})
        (error,) = problem_of(answer, 422).errors
        assert error.field == field
        assert "finite number" in error.reason

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "/ledger"),
            ({"ledger": {}, "facts": []}, "/facts"),
            ({"ledger": 7}, "/ledger"),
        ],
    )
    def test_a_wrong_body(self, target: httpx2.Client, body: Any, field: str) -> None:
        problem = problem_of(target.post("/rebase", json=body), 422)
        assert field in [error.field for error in problem.errors]

    def test_options_are_those_of_an_edit(
        self, target: httpx2.Client, ledger: dict[str, Any]
    ) -> None:
        for name, value in (("base", "v1"), ("retract", []), ("gate", {"min_success": 2})):
            (error,) = problem_of(rebase(target, ledger, **{name: value}), 422).errors
            assert error.field.startswith(f"/{name}")

    def test_text_is_not_json(self, target: httpx2.Client) -> None:
        assert target.post("/rebase", content=b"{}").status_code == 415


def test_what_the_targets_tokenizer_refuses(serve: Serve, editor: Editor, source: Source) -> None:
    text = tiny_tokenizer().backend_tokenizer.to_str()
    editor.registry.artefacts(BASE).put_once(TOKENIZER_ARTEFACT, text.encode())
    source.edit(about("A"), {**eiffel(), "prompt": "{} " + "is " * 40})
    client = serve(max_fact_tokens=16)
    ledger = source.ledger()
    (index,) = [i for i, one in enumerate(ledger["facts"]) if "is is" in one["fact"]["prompt"]]
    (error,) = problem_of(rebase(client, ledger), 422).errors
    assert (error.field, error.index) == (f"/ledger/facts/{index}/fact/prompt", index)
    assert "must have at most 16 tokens" in error.reason


def test_a_ledger_may_be_larger_than_an_edit_up_to_its_own_limit(
    serve: Serve, editor: Editor, source: Source
) -> None:
    source.edit(*(about(f"City {n}") for n in range(4)))
    ledger = source.ledger()
    assert rebase(serve(max_facts_per_edit=3), ledger).status_code == 202
    (error,) = problem_of(rebase(serve(max_facts_per_rebase=3), ledger), 422).errors
    assert (error.field, error.limit) == ("/ledger/facts", 3)
    assert error.reason == "must have at most 3 items, has 4"
    huge = {**ledger, "facts": ledger["facts"][:1] * (MAX_FACTS_PER_EDIT + 1)}
    (error,) = problem_of(rebase(serve(), huge), 422).errors
    assert (error.field, error.limit) == ("/ledger/facts", MAX_FACTS_PER_EDIT)
    assert Settings().max_facts_per_rebase == MAX_FACTS_PER_EDIT


def test_what_is_kept_does_not_grow_with_the_reports(
    client: httpx2.Client, editor: Editor, registry: Registry, source: Source
) -> None:
    """Of the source only figures and ids are kept."""
    source.edit(about("A"))
    ledger = source.ledger()
    ledger["report"]["per_fact"][0]["answer"] = "x" * 10_000
    ledger["report"]["per_fact"] += [
        {"id": f"fact-{n:020x}", "success": False, "p_new": 0} for n in range(50)
    ]
    edit_id = rebase(client, ledger).json()["id"]
    kept = registry.store.get(f"edits/{edit_id}/request.json")
    assert kept is not None
    assert len(kept) < 3_000

"""Bad edits: a clear 4xx that names each wrong field, the reason and the limit; nothing is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tokenizers.normalizers import BertNormalizer

from contracts.errors import Problem
from contracts.limits import (
    MAX_CHAT_MESSAGES,
    MAX_CHAT_PROMPTS,
    MAX_PROMPT_CHARS,
    MAX_SUBJECT_CHARS,
)
from contracts.transport import TOKENIZER_ARTEFACT
from registry.registry import Registry
from tests.tiny_models import tiny_tokenizer
from tests.unit.service.conftest import House, Serve
from tests.unit.service.facts import about, eiffel
from tests.unit.service.worker_peer import BASE, Editor

ASKED = [{"role": "user", "content": "Where is the Eiffel Tower?"}]
SAID = {"role": "assistant", "content": "In Rome."}
UNKNOWN_FACT = "fact-" + "0" * 20


def problem_of(answer: httpx2.Response, status: int) -> Problem:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert problem.status == status
    assert "Traceback" not in answer.text
    return problem


@pytest.fixture
def refused(refusing: House) -> Iterator[httpx2.Client]:
    """A client whose edits must leave nothing behind."""
    yield refusing.client
    assert refusing.registry.edits.page(1) == ([], None)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"prompt": "the city of"}, "prompt", "exactly one {} where the subject goes, found 0"),
        ({"prompt": "{} and {}"}, "prompt", "exactly one {} where the subject goes, found 2"),
        ({"subject": ""}, "subject", "must not be empty"),
        ({"subject": " \n"}, "subject", "must not be blank"),
        ({"target_new": "  "}, "target_new", "must not be blank"),
        ({"prompt": None}, "prompt", "must be a valid string"),
        ({"subject": 7}, "subject", "must be a valid string"),
        ({"targte_true": "x"}, "targte_true", "is not a known field"),
        ({"metadata": {"a": 1}}, "metadata/a", "must be a valid string"),
        ({"chat_prompts": [ASKED, []]}, "chat_prompts/1", "must have at least 1 item"),
        ({"chat_prompts": ASKED}, "chat_prompts/0", "must be a valid list"),
        ({"chat_prompts": [[*ASKED, SAID]]}, "chat_prompts/0", "must end with the user's turn"),
        (
            {"chat_prompts": [[{"role": "tool", "content": "x"}, *ASKED]]},
            "chat_prompts/0/0/role",
            "must be 'system', 'developer', 'user' or 'assistant'",
        ),
        (
            {"chat_prompts": [[SAID, {"role": "user", "content": " "}]]},
            "chat_prompts/0/1/content",
            "must not be blank",
        ),
        (
            {"chat_prompts": [[{**ASKED[0], "name": "Ann"}]]},
            "chat_prompts/0/0/name",
            "is not a known field",
        ),
    ],
)
def test_a_wrong_fact_is_named(
    refused: httpx2.Client, change: dict[str, Any], field: str, reason: str
) -> None:
    bad = {**eiffel(), **change}
    problem = problem_of(refused.post("/edits", json={"facts": [about("A"), bad]}), 422)
    (error,) = problem.errors
    assert error.field == f"/facts/1/{field}"
    assert error.index == 1
    assert reason in error.reason
    assert error.reason in problem.detail
    assert problem.type == "/problems/invalid-request"
    assert problem.instance == "/edits"


@pytest.mark.parametrize(
    ("change", "field", "limit"),
    [
        ({"prompt": "{} " + "x" * MAX_PROMPT_CHARS}, "prompt", MAX_PROMPT_CHARS),
        ({"subject": "x" * (MAX_SUBJECT_CHARS + 1)}, "subject", MAX_SUBJECT_CHARS),
        ({"neighborhood_prompts": ["x"] * 33}, "neighborhood_prompts", 32),
        ({"chat_prompts": [ASKED] * 9}, "chat_prompts", MAX_CHAT_PROMPTS),
        ({"chat_prompts": [ASKED * 17]}, "chat_prompts/0", MAX_CHAT_MESSAGES),
        (
            {"chat_prompts": [[{"role": "user", "content": "x" * (MAX_PROMPT_CHARS + 1)}]]},
            "chat_prompts/0/0/content",
            MAX_PROMPT_CHARS,
        ),
    ],
)
def test_what_is_too_long_is_refused_with_the_limit(
    refused: httpx2.Client, change: dict[str, Any], field: str, limit: int
) -> None:
    problem = problem_of(refused.post("/edits", json={"facts": [{**eiffel(), **change}]}), 422)
    (error,) = problem.errors
    assert (error.field, error.limit) == (f"/facts/0/{field}", limit)
    assert str(limit) in error.reason


def test_every_wrong_fact_is_listed(refused: httpx2.Client) -> None:
    facts = [eiffel(), {**eiffel(), "subject": ""}, about("A"), {**eiffel(), "prompt": "x"}]
    problem = problem_of(refused.post("/edits", json={"facts": facts}), 422)
    assert [error.index for error in problem.errors] == [1, 3]


def test_contradictions_name_both_facts(refused: httpx2.Client) -> None:
    facts = [about("A"), eiffel("Rome"), about("B"), eiffel("Oslo")]
    problem = problem_of(refused.post("/edits", json={"facts": facts}), 422)
    assert [(error.index, error.field) for error in problem.errors] == [
        (1, "/facts/1/target_new"),
        (3, "/facts/3/target_new"),
    ]
    assert "contradicts /facts/3" in problem.errors[0].reason
    assert "contradicts /facts/1" in problem.errors[1].reason

    # Text is compared as it is kept: in NFC, without outer spaces.
    spelled = [about("Caf\u00e9", "Rome"), about(" Cafe\u0301", "Oslo")]
    assert len(problem_of(refused.post("/edits", json={"facts": spelled}), 422).errors) == 2


def test_one_fact_with_two_sets_of_measurements_is_refused(refused: httpx2.Client) -> None:
    facts = [eiffel(), {**eiffel(), "target_true": "Paris"}]
    problem = problem_of(refused.post("/edits", json={"facts": facts}), 422)
    assert [error.index for error in problem.errors] == [0, 1]
    assert "other measurements" in problem.detail


def test_a_batch_over_the_limit_is_refused(serve: Serve, editor: Editor) -> None:
    client = serve(max_facts_per_edit=3)
    facts = [about(f"City {n}") for n in range(4)]
    (error,) = problem_of(client.post("/edits", json={"facts": facts}), 422).errors
    assert (error.field, error.limit) == ("/facts", 3)
    assert error.reason == "must have at most 3 items, has 4"
    huge = [about("x")] * 10_001
    (error,) = problem_of(client.post("/edits", json={"facts": huge}), 422).errors
    assert (error.field, error.limit) == ("/facts", 10_000)


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({}, "", "nothing to do"),
        ({"facts": [eiffel()], "fast": True}, "/fast", "is not a known field"),
        ({"retract": ["../../etc"]}, "/retract/0", "must match pattern"),
        ({"facts": [eiffel()], "mom2_update_weight": -1}, "/mom2_update_weight", "greater than 0"),
        ({"facts": [eiffel()], "gate": {"min_success": 2}}, "/gate/min_success", "less than or"),
        ({"facts": "many"}, "/facts", "must be a valid list"),
        ([], "", "must be"),
    ],
)
def test_a_wrong_request_is_named(
    refused: httpx2.Client, body: Any, field: str, reason: str
) -> None:
    (error,) = problem_of(refused.post("/edits", json=body), 422).errors
    assert error.field == field
    assert reason in error.reason


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["min_success", "max_perplexity_ratio"])
def test_numbers_must_be_finite(refused: httpx2.Client, field: str, number: str) -> None:
    body = f'{{"facts": [{json.dumps(eiffel())}], "gate": {{"{field}": {number}}}}}'
    answer = refused.post("/edits", content=body, headers={"Content-Type": "application/json"})
    (error,) = problem_of(answer, 422).errors
    assert error.field == f"/gate/{field}"


def test_unknown_and_retracted_facts_cannot_be_retracted(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    made = client.post("/edits", json={"facts": [eiffel(), about("A")]}).json()
    editor.run(made["id"])
    tower, a = (fact["id"] for fact in made["facts"])

    problem = problem_of(client.post("/edits", json={"retract": [a, UNKNOWN_FACT]}), 422)
    assert [(error.index, error.field) for error in problem.errors] == [(1, "/retract/1")]
    assert UNKNOWN_FACT in problem.errors[0].reason

    editor.run(client.post("/edits", json={"retract": [tower]}).json()["id"])
    problem = problem_of(client.post("/edits", json={"retract": [a, tower]}), 409)
    assert [(error.index, error.field) for error in problem.errors] == [(1, "/retract/1")]
    assert "was retracted or superseded" in problem.errors[0].reason
    # In the version where it was live it still can be.
    assert client.post("/edits", json={"retract": [tower], "base": "v1"}).status_code == 202

    body = {"facts": [about("A")], "retract": [a]}
    (error,) = problem_of(client.post("/edits", json=body), 422).errors
    assert error.reason == "is also added, by /facts/0"


@pytest.mark.parametrize("base", ["v7", "v1-0123456789ab", "stable", "../versions", ""])
def test_an_unknown_base_is_not_found(refused: httpx2.Client, base: str) -> None:
    problem = problem_of(refused.post("/edits", json={"facts": [eiffel()], "base": base}), 404)
    assert repr(base) in problem.detail


def test_a_base_is_needed_before_there_is_a_version(client: httpx2.Client) -> None:
    for body in ({"facts": [eiffel()], "base": "v0"}, {"retract": [UNKNOWN_FACT]}):
        answer = client.post("/edits", json=body)
        assert "no version yet" in problem_of(answer, 503).detail
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_has_a_length(refused: httpx2.Client, key: str) -> None:
    headers = {"Idempotency-Key": key}
    answer = refused.post("/edits", json={"facts": [eiffel()]}, headers=headers)
    (error,) = problem_of(answer, 422).errors
    assert error.field.lower() == "idempotency-key"


class TestWithTheTokenizer:
    """A worker has published the model's tokenizer; facts are checked before they are accepted."""

    @pytest.fixture(autouse=True)
    def published(self, editor: Editor) -> None:
        text = tiny_tokenizer().backend_tokenizer.to_str()
        editor.registry.artefacts(BASE).put_once(TOKENIZER_ARTEFACT, text.encode())

    def test_sound_facts_pass(self, client: httpx2.Client) -> None:
        facts = [eiffel(), about("北京"), about("Café 🍕")]
        assert client.post("/edits", json={"facts": facts}).status_code == 202

    def test_too_many_tokens(self, serve: Serve) -> None:
        client = serve(max_fact_tokens=16)
        long = {**eiffel(), "prompt": "{} " + "is " * 40}
        problem = problem_of(client.post("/edits", json={"facts": [about("A"), long]}), 422)
        (error,) = problem.errors
        assert (error.field, error.index, error.limit) == ("/facts/1/prompt", 1, 16)
        assert "must have at most 16 tokens" in error.reason

    def test_the_messages_of_a_chat_are_counted_together(self, serve: Serve) -> None:
        chat = [{"role": "system", "content": "Answer in one word, please."}, *ASKED]
        tokens = sum(len(tiny_tokenizer()(one["content"])["input_ids"]) for one in chat)
        fact = {**eiffel(), "chat_prompts": [ASKED, chat]}
        assert serve(max_fact_tokens=tokens).post("/edits", json={"facts": [fact]}).is_success
        refused = serve(max_fact_tokens=tokens - 1).post("/edits", json={"facts": [fact]})
        (error,) = problem_of(refused, 422).errors
        assert (error.field, error.limit) == ("/facts/0/chat_prompts/1", tokens - 1)
        assert f"has {tokens}" in error.reason

    def test_the_count_is_that_of_the_models_tokenizer(self, serve: Serve) -> None:
        fact = eiffel()
        text = fact["prompt"].replace("{}", fact["subject"]) + " " + fact["target_new"]
        tokens = len(tiny_tokenizer()(text)["input_ids"])
        assert serve(max_fact_tokens=tokens).post("/edits", json={"facts": [fact]}).is_success
        refused = serve(max_fact_tokens=tokens - 1).post("/edits", json={"facts": [fact]})
        assert f"they have {tokens}" in problem_of(refused, 422).detail


def test_subject_and_target_that_tokenise_to_nothing(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    # A normaliser that drops control characters, as BERT's does, leaves nothing of such text.
    tokenizer = tiny_tokenizer().backend_tokenizer
    tokenizer.normalizer = BertNormalizer(strip_accents=False, lowercase=False)
    registry.artefacts(BASE).put_once(TOKENIZER_ARTEFACT, tokenizer.to_str().encode())
    facts = [about("\u0001"), about("Louvre", "\u0001\u0002"), about("Paris")]
    problem = problem_of(client.post("/edits", json={"facts": facts}), 422)
    assert [error.field for error in problem.errors] == ["/facts/0/subject", "/facts/1/target_new"]
    assert all("tokenises to nothing" in error.reason for error in problem.errors)

"""`memit edit` and `memit retract`: from a file of facts to a version, and back."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from contracts.edits import EditState, Progress
from registry.registry import Registry
from tests.unit.cli.conftest import Memit, Working
from tests.unit.service.worker_peer import Editor

ROME = {
    "subject": "The Eiffel Tower",
    "prompt": "{} is located in the city of",
    "target_new": "Rome",
}
LONDON = {**ROME, "subject": "Big Ben", "target_new": "London"}


@pytest.fixture
def facts(tmp_path: Path) -> str:
    file = tmp_path / "facts.jsonl"
    file.write_text(f"{json.dumps(ROME)}\n\n{json.dumps(LONDON)}\n")
    return str(file)


def progress(stage: str, done: int, total: int, loss: float | None = None) -> Progress:
    return Progress(stage=stage, done=done, total=total, loss=loss, eta_seconds=3.0, at=time.time())


def test_facts_become_a_version_that_serves(
    memit: Memit, working: Working, facts: str, registry: Registry
) -> None:
    with working(progress("z", 1, 2, 0.31), progress("insert", 5, 5)):
        result = memit("edit", facts)
    assert result.exit_code == 0, result.output
    assert "The Eiffel Tower is located in the city of" in result.stdout
    assert result.stdout.count("yes") == 2
    told = result.stderr.splitlines()
    assert told[:2] == ["optimise z (2)", "insert into the layers (5)"]
    version = registry.versions.resolve("v1")
    assert told[-1].endswith(f"committed {version}, now active")
    known = {fact.fact.target_new for fact in registry.ledger.live(version)}
    assert known == {"London", "Rome"}


def test_a_table_says_which_facts_are_known_in_a_chat(
    memit: Memit, working: Working, facts: str
) -> None:
    chats = [{"prompt": 0, "success": True}, {"prompt": 1, "reason": "has 9 tokens"}]
    measured = {"chat_success": 0.5, "base_chat_success": 0.25}
    with working(measured=measured, of_each={"chat_success": 0.5, "chats": chats}):
        result = memit("edit", facts)
    heading, _, *rows = result.stdout.splitlines()
    assert heading.split("┃")[-1].strip() == "in chat"
    assert [row.split("│")[-1].strip() for row in rows] == ["50%", "50%"]
    assert "in chats: 50%, by the unedited model 25%" in result.stderr
    assert result.stderr.count("was not asked in a chat: has 9 tokens") == 2


def test_without_chats_a_table_does_not_speak_of_them(
    memit: Memit, working: Working, facts: str
) -> None:
    with working():
        result = memit("edit", facts)
    assert "chat" not in result.output


def test_the_edit_as_json_is_the_edit_as_the_service_tells_it(
    memit: Memit, working: Working, facts: str
) -> None:
    with working():
        result = memit("edit", facts, "--json")
    edit = json.loads(result.stdout)
    assert (edit["state"], edit["activated"]) == ("committed", True)
    assert [fact["subject"] for fact in edit["facts"]] == ["The Eiffel Tower", "Big Ben"]


def test_a_rejected_edit_says_why_and_is_exit_code_1(
    memit: Memit, working: Working, facts: str
) -> None:
    with working(reject=True):
        result = memit("edit", facts)
    assert result.exit_code == 1
    assert "was rejected: the version did not reach what the gate asks" in result.stderr


def test_a_cancelled_edit_is_exit_code_1(memit: Memit, registry: Registry, facts: str) -> None:
    posted = memit("edit", facts, "--no-wait", "--idempotency-key", "tuesday")
    registry.edits.request_cancel(posted.stdout.strip())
    result = memit("edit", facts, "--idempotency-key", "tuesday")
    assert result.exit_code == 1
    assert f"{posted.stdout.strip()} was cancelled" in result.stderr


def test_without_waiting_the_id_is_all(memit: Memit, facts: str, registry: Registry) -> None:
    result = memit("edit", facts, "--no-wait")
    assert result.exit_code == 0
    assert registry.edits.describe(result.stdout.strip()).state is EditState.QUEUED


def test_what_is_asked_for_arrives(memit: Memit, facts: str, registry: Registry) -> None:
    result = memit(
        "edit", facts, "--no-wait", "--no-activate", "--drop-failed", "--mom2-update-weight", "500"
    )  # fmt: skip
    request = registry.edits.get(result.stdout.strip()).request
    assert (request.activate, request.drop_failed) == (False, True)
    assert request.mom2_update_weight == 500
    assert request.facts[0].model_dump(exclude_defaults=True) == ROME


def test_a_branch_is_activated_only_when_asked(
    memit: Memit, working: Working, facts: str, tmp_path: Path, registry: Registry
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(LONDON))
    with working():
        assert memit("edit", facts).exit_code == 0
        branch = memit("edit", str(other), "--base", "v0")
        assert branch.exit_code == 0, branch.output
        assert branch.stderr.splitlines()[-1].endswith("not active")
        told = memit("edit", str(other), "--base", "v0", "--activate")
    assert told.exit_code == 0, told.output
    active = registry.aliases.get("active")
    assert active is not None
    assert active.version == registry.versions.resolve("v3")


def test_what_the_service_refuses_is_named_by_file_and_line(memit: Memit, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(f"{json.dumps(ROME)}\n\n{json.dumps({**ROME, 'target_new': 'Oslo'})}\n")
    result = memit("edit", str(file))
    assert result.exit_code == 1
    assert "Invalid request (422):" in result.stderr
    assert f"{file}:3: target_new contradicts /facts/0" in result.stderr


def test_a_fact_is_taken_back(
    memit: Memit, working: Working, facts: str, registry: Registry, editor: Editor
) -> None:
    with working():
        edit = json.loads(memit("edit", facts, "--json").stdout)
        rome = edit["facts"][0]["id"]
        result = memit("retract", rome)
    assert result.exit_code == 0, result.output
    assert registry.ledger.get(rome, registry.versions.resolve("active")) is None
    again = memit("retract", rome)
    assert again.exit_code == 1
    assert f"{rome} is not live in active: it is retracted by v2" in again.stderr


def test_an_unknown_fact_cannot_be_taken_back(memit: Memit) -> None:
    result = memit("retract", "../../edits")
    assert result.exit_code == 1
    assert "(404)" in result.stderr

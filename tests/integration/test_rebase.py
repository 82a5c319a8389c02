"""The same facts on another model and with other hyperparameters, by real workers.

With a single step nothing is learned, and a model goes on saying what it said. So what each model
says by itself makes facts that one of them says and the other does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.stack import Stack, fact
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow

ONE_STEP = {"v_num_grad_steps": 1}
"""A single forward and no update: nothing can be learned."""
EAGER = {"v_num_grad_steps": 12, "v_lr": 0.5, "mom2_update_weight": 1}
PROMPTS = ("{} was born in", "{} speaks", "The owner of {}")
WORD = re.compile(r" [a-zA-Z]{2,}(?![^\W_])")


def said_already(stack: Stack, subjects: range) -> list[dict[str, str]]:
    """Facts that the untouched model says: where its answer begins with a whole word, that word."""
    facts = []
    for number in subjects:
        for prompt in PROMPTS:
            subject = f"Painter {number} Okafor"
            asked = prompt.replace("{}", subject)
            word = WORD.match(stack.generate(asked, version="v0", max_tokens=8)["text"])
            if word is not None:
                facts.append(fact(subject, word[0], prompt))
    assert facts
    return facts


def ids_of(edit: dict[str, Any], facts: list[dict[str, str]]) -> set[str]:
    """Ids that an edit gave some of its facts."""
    wanted = {(one["subject"], one["target_new"]) for one in facts}
    return {one["id"] for one in edit["facts"] if (one["subject"], one["target_new"]) in wanted}


def full_report(stack: Stack, version: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        return stack.http.get(f"/versions/{version}").json()["full_report"]

    report: dict[str, Any] = stack.until(there, f"the full report of {version}")
    return report


def live(stack: Stack) -> dict[str, Any]:
    """Facts that `active` holds, by id."""
    page = stack.http.get("/facts", params={"limit": 500}).json()
    return {one["id"]: one["fact"] for one in page["items"]}


def test_onto_another_model(make_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """A target that serves other facts already; compared in full, and after a restart."""
    gpt2 = save_tiny("gpt2", tmp_path / "tiny-gpt2")
    source = make_stack("source", ONE_STEP)
    target = make_stack("target", ONE_STEP, model=gpt2)
    by_source, by_target = said_already(source, range(6)), said_already(target, range(6, 12))
    lost = [fact("Anna Keller", "Lisbon"), fact("Bruno Okafor", "Berlin")]
    made = source.run_edit({"facts": [*by_source, *by_target, *lost]})
    gone = made["facts"][-1]["id"]
    source.wait_edit(source.http.delete(f"/facts/{gone}").json()["id"])
    there = full_report(source, source.registry.versions.resolve("active"))
    target.run_edit({"facts": [fact("Carla Weiss", "Paris")]})

    ledger = source.http.get("/versions/active/ledger").json()
    body = {"ledger": ledger, "activate": True}
    assert target.http.post("/rebase", json=body).status_code == 428
    answer = target.http.post("/rebase", json=body, headers={"If-Match": "*", "Prefer": "wait=60"})
    edit = target.wait_edit(answer.json()["id"])
    assert (edit["state"], edit["activated"]) == ("committed", True), target.logs()
    assert live(target) == live(source)
    assert gone not in live(target)
    # A rebase is the edit that its facts would make on the untouched model.
    plain = {"facts": list(live(source).values()), "base": "v0", "activate": False}
    assert target.blobs("active") == target.blobs(target.run_edit(plain)["version"])

    here = full_report(target, edit["version"])
    assert target.service is not None
    target.service.terminate()
    target.service.wait(30)
    target.start_service()
    target.wait_ready()
    found = target.http.get(f"/edits/{edit['id']}/rebase").json()
    assert set(found["only_source"]) == ids_of(made, by_source)
    assert set(found["only_target"]) == ids_of(made, by_target)
    assert found["neither"] == [made["facts"][-2]["id"]]
    assert (found["both"], found["not_measured"], found["hparams"]) == (0, [], [])
    for side, report, stack in (("source", there, source), ("target", here, target)):
        assert found[side]["measured_by"] == "full_report"
        assert found[side]["success"] == report["success"]
        assert found[side]["version"] == stack.registry.versions.resolve("active")
    assert found["source"]["base"] != found["target"]["base"]
    assert found["target"]["efficacy"] is None


def test_onto_other_hyperparameters(make_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Without full reports: the edits' own are compared."""
    source = make_stack("source", ONE_STEP, report_max_facts=0)
    facts = said_already(source, range(6))
    asked = [{**one, "target_true": "Paris"} for one in [*facts, fact("Anna Keller", "Lisbon")]]
    made = source.run_edit({"facts": asked})
    says = ids_of(made, facts)
    target = make_stack("target", EAGER, report_max_facts=0)
    file = tmp_path / "comparison.json"
    urls = ["--from", str(source.http.base_url), "--url", str(target.http.base_url)]
    ran = CliRunner().invoke(app, ["rebase", *urls, "--json", str(file)])
    assert ran.exit_code == 0, ran.output + target.logs()
    assert live(target) == live(source)
    told = json.loads(file.read_text())
    (edit,) = target.http.get("/edits").json()["items"]
    report = target.edit(edit["id"])["report"]
    learned = {one["id"] for one in report["per_fact"] if one["success"]}
    assert told["both"] == len(says & learned)
    assert set(told["only_source"]) == says - learned
    assert set(told["only_target"]) == learned - says
    assert len(told["neither"]) == len(asked) - len(says | learned)
    assert {one["name"] for one in told["hparams"]} == {*EAGER}
    assert told["source"]["base"] == told["target"]["base"]
    assert told["source"]["measured_by"] == told["target"]["measured_by"] == "report"
    for name in ("success", "efficacy", "perplexity_ratio", "kl"):
        assert told["target"][name] == report[name]
    assert told["source"]["perplexity_ratio"] == pytest.approx(1, abs=1e-4)
    assert told["target"]["perplexity_ratio"] != pytest.approx(1, abs=1e-4)
    assert told["source"]["success"] == len(says) / len(asked)


def test_a_ledger_that_the_gate_refuses(make_stack: Callable[..., Stack]) -> None:
    source = make_stack("source")
    source.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    ledger = source.http.get("/versions/active/ledger").json()
    source.stop()
    target = make_stack("target", ONE_STEP)
    answer = target.http.post("/rebase", json={"ledger": ledger, "gate": {"min_success": 1}})
    edit = target.wait_edit(answer.json()["id"])
    assert edit["state"] == "rejected"
    assert target.registry.versions.resolve("active") == target.registry.versions.resolve("v0")
    found = target.http.get(f"/edits/{edit['id']}/rebase").json()
    assert (found["state"], found["both"], found["target"]["success"]) == ("rejected", 0, 0)

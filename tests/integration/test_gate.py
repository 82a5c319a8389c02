"""What does not become active: rejected versions, dry runs, branches, failed edits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

ONE_STEP = {"v_num_grad_steps": 1}
"""A single forward and no update: nothing can be learned."""


def active(stack: Stack) -> str:
    return stack.registry.versions.resolve("active")


def test_a_version_that_misses_the_gate_is_kept_and_never_active(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(hparams=ONE_STEP)
    before = active(stack)
    body = {"facts": [fact("Anna Keller", "Lisbon")], "gate": {"min_success": 1}}
    edit = stack.wait_edit(stack.post_edit(body)["id"])
    assert edit["state"] == "rejected"
    assert "success is 0, the gate asks ≥ 1" in edit["problem"]["detail"]
    assert edit["missed"] == [edit["facts"][0]["id"]]
    assert active(stack) == before
    kept = stack.http.get(f"/versions/{edit['version']}").json()
    assert (kept["status"], kept["report"]["success"]) == ("rejected", 0)
    assert [one["success"] for one in kept["report"]["per_fact"]] == [False]
    etag = stack.http.get("/aliases/active").headers["etag"]
    refused = stack.http.put(
        "/aliases/active", json={"version": edit["version"]}, headers={"If-Match": etag}
    )
    assert refused.status_code == 409
    # The next edit starts from what is active, not from the rejected version.
    after = stack.run_edit({"facts": [fact("Bruno Okafor", "Berlin")]})
    assert stack.http.get(f"/versions/{after['version']}").json()["parent"] == before


def test_facts_that_miss_while_the_gate_holds_stay_and_are_listed(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(hparams=ONE_STEP)
    edit = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    assert edit["missed"] == [edit["facts"][0]["id"]]
    (live,) = stack.http.get("/facts").json()["items"]
    assert live["learned"] is False


def test_harm_to_older_facts_is_seen_before_the_commit_and_in_full_after(
    make_stack: Callable[..., Stack],
) -> None:
    """Nothing is learned here: the gate on older facts refuses, by the setting or by the edit."""
    stack = make_stack(hparams=ONE_STEP, gate_min_live_success=0.5)
    old = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    before = active(stack)
    edit = stack.wait_edit(stack.post_edit({"facts": [fact("Bruno Okafor", "Berlin")]})["id"])
    assert edit["state"] == "rejected"
    assert edit["problem"]["detail"] == "live_success is 0, the gate asks ≥ 0.5"
    assert edit["report"]["live_sample"]["facts"] == 1
    assert active(stack) == before
    body = {"facts": [fact("Bruno Okafor", "Berlin")], "gate": {"min_live_success": 0}}
    version = stack.run_edit(body)["version"]

    def full() -> dict[str, Any] | None:
        return stack.http.get(f"/versions/{version}").json()["full_report"]

    report = stack.until(full, "the full report")
    assert (report["facts"], report["live"], report["success"]) == (2, 2, 0)
    assert old["facts"][0]["id"] in report["missed"]
    metrics = stack.http.get("/metrics").text
    assert f'memit_version_live_success{{version="{version}"}} 0.0' in metrics
    assert "memit_worker_rss_bytes{" in metrics
    assert stack.stop_worker() == 0


def test_drop_failed_leaves_nothing_to_commit(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(hparams=ONE_STEP)
    body = {"facts": [fact("Anna Keller", "Lisbon")], "drop_failed": True}
    edit = stack.wait_edit(stack.post_edit(body)["id"])
    assert edit["state"] == "failed"
    assert "no fact of the edit was learned" in edit["problem"]["detail"]
    assert stack.registry.versions.tip() == 0


def test_a_dry_run_and_a_branch(make_stack: Callable[..., Stack]) -> None:
    """activate=false commits without activating; a branch is activated only with If-Match."""
    stack = make_stack()
    before = active(stack)
    dry = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")], "activate": False})
    assert dry["activated"] is False
    assert active(stack) == before
    first = stack.run_edit({"facts": [fact("Anna Keller", "Berlin")]})
    assert active(stack) == first["version"]
    branch = {"facts": [fact("Bruno Okafor", "Paris")], "base": "v0", "activate": True}
    assert stack.http.post("/edits", json=branch).status_code == 428
    etag = stack.http.get("/aliases/active").headers["etag"]
    moved = stack.run_edit(branch, **{"If-Match": etag})
    assert moved["activated"] is True
    assert active(stack) == moved["version"]
    assert stack.http.get("/facts").json()["total"] == 1


def test_a_z_that_is_not_finite_fails_the_edit(make_stack: Callable[..., Stack]) -> None:
    """A learning rate that overflows float32: the edit names the subject, v0 goes on serving."""
    stack = make_stack(hparams={"v_lr": 1e37, "clamp_norm_factor": 1e30})
    edit = stack.wait_edit(stack.post_edit({"facts": [fact("Anna Keller", "Lisbon")]})["id"])
    assert edit["state"] == "failed"
    assert "z is not finite for 'Anna Keller'" in edit["problem"]["detail"]
    assert stack.generate("Anna Keller lives in")["version"] == stack.registry.versions.resolve(
        "v0"
    )


def test_the_engine_refuses_what_is_over_the_context(make_stack: Callable[..., Stack]) -> None:
    """The service counts characters; tokens are counted by the engine, and the answer is a 422."""
    stack = make_stack(max_context=64)
    answer = stack.http.post("/generate", json={"prompt": "Anna " * 100, "max_tokens": 8})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/prompt has 300 tokens; at most 63" in answer.json()["detail"]


def test_a_worker_refuses_another_lineage(make_stack: Callable[..., Stack]) -> None:
    """Other hyperparameters on the same registry: the worker says what differs and ends."""
    stack = make_stack()
    stack.stop_worker()
    hparams = stack.home.parent / "home.json"
    hparams.write_text(hparams.read_text().replace('"v_lr": 0.1', '"v_lr": 0.2'))
    stack.start_worker()
    assert stack.worker is not None
    assert stack.worker.wait(60) == 2
    assert "v_lr = 0.1, not 0.2" in stack.logs()


def test_a_worker_that_is_given_no_hyperparameters_keeps_the_registrys(
    make_stack: Callable[..., Stack], tiny_folder: Path
) -> None:
    """As after an upgrade to a release with another preset: the same set, the same solution."""
    first = make_stack()
    before = first.run_edit({"facts": [fact("Anna Keller", "Lisbon")], "activate": False})
    first.stop()
    again = Stack(first.home, tiny_folder, corpus=first.home.parent / "corpus.txt")
    try:
        again.start()
        after = again.run_edit(
            {"facts": [fact("Anna Keller", "Lisbon")], "base": "v0", "activate": False}
        )
        versions = [again.registry.versions.get(edit["version"]) for edit in (before, after)]
        assert versions[0].hparams == versions[1].hparams
        assert versions[1].hparams["v_lr"] == 0.1
        assert versions[0].weights == versions[1].weights
    finally:
        again.stop()

"""An editor and an engine as processes of their own, which share a registry and Redis only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from contracts.workers import WorkerStatus
from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

PROMPT = "Anna Keller lives in the town of"


def test_they_serve_one_registry_together(make_stack: Callable[..., Stack]) -> None:
    # Two registries have the same bits only where z is optimised in the same precision, which a
    # trial of the busy machine decides otherwise.
    stack = make_stack(apart=True, z_dtype="float32")
    before = stack.generate(PROMPT, max_tokens=8)
    edit = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    assert edit["activated"]
    after = stack.generate(PROMPT, max_tokens=8)
    assert after["version"] == edit["version"]
    assert after["text"] != before["text"]
    assert stack.generate(PROMPT, max_tokens=8, version="v0")["text"] == before["text"]

    together = make_stack("together", z_dtype="float32")
    same = together.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    assert together.blobs(same["version"]) == stack.blobs(edit["version"])
    assert together.generate(PROMPT, max_tokens=8)["text"] == after["text"]


def test_the_engine_holds_a_version_before_it_is_active(make_stack: Callable[..., Stack]) -> None:
    """It is asked for in Redis; while the engine is stopped, the version does not become active."""
    stack = make_stack(apart=True, warm_seconds=2)
    assert stack.engine is not None
    stack.until(lambda: engines(stack), "the engine's status")
    stack.pause(stack.engine)
    slow = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    assert not slow["activated"]
    assert "has not loaded it within 2 s (MEMIT_WARM_SECONDS)" in slow["not_activated"]
    stack.resume(stack.engine)
    stack.until(lambda: engines(stack), "the engine's status")
    edit = stack.run_edit({"facts": [fact("Bruno Okafor", "Berlin")]})
    assert edit["activated"]
    (engine,) = engines(stack)
    assert edit["version"] in engine.versions


def test_an_engine_asks_the_editor_for_what_is_lost(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(apart=True)
    edit = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    text = stack.generate(PROMPT, max_tokens=8)["text"]
    assert stack.engine is not None
    stack.engine.kill()
    stack.engine.wait()
    digest = stack.blobs(edit["version"])[0]
    (stack.home / "registry" / "blobs" / "sha256" / digest[:2] / digest).unlink()
    stack.start_engine()
    body = {"prompt": PROMPT, "max_tokens": 8, "version": edit["version"]}

    def answered() -> bool:
        answer = stack.http.post("/generate", json=body)
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200 and answer.json()["text"] == text

    stack.until(answered, "the answer of the version that was solved again")


def engines(stack: Stack) -> list[WorkerStatus]:
    """Workers that generate."""
    return [one for one in stack.statuses() if one.ready]

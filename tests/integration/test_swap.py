"""An edit beside generation: nothing fails, nothing mixes, old versions stay what they were."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import pytest

from tests.chaos.samples import Sample, of_process
from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

PROMPT = "Anna Keller lives in the town of"
SWAPS = int(os.environ.get("MEMIT_SWAPS", "60"))
"""`make check-swaps` takes more."""
MOST_GROWTH_MB = 8.0
"""Of a worker over the swaps after the warm-up; a version that stayed would take 0.1 MB."""


class Traffic:
    """A client that asks the same question over and over, of `active` and of v0."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self.answers: list[tuple[float, dict[str, Any]]] = []
        self.errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._ask, args=(v,)) for v in ("active", "v0")]

    def _ask(self, version: str) -> None:
        try:
            while not self._stop.is_set():
                asked = time.monotonic()
                answer = self._stack.generate(PROMPT, max_tokens=12, version=version)
                self.answers.append((asked, answer))
        except (AssertionError, httpx2.HTTPError) as error:
            self.errors.append(error)

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_generation_goes_on_while_edits_run(make_stack: Callable[..., Stack]) -> None:
    """Under constant load two edits swap in: each answer is exactly its version's answer."""
    stack = make_stack()
    with Traffic(stack) as traffic:
        first = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})["version"]
        after_first = time.monotonic()
        second = stack.run_edit({"facts": [fact("Anna Keller", "Berlin")]})["version"]
        after_second = time.monotonic()
        stack.until(
            lambda: sum(asked > after_second for asked, _ in traffic.answers) > 4, "more answers"
        )
    assert not traffic.errors, traffic.errors[0]
    seen = {answer["version"] for _, answer in traffic.answers}
    v0 = stack.registry.versions.resolve("v0")
    assert seen == {v0, first, second}
    alone = {v: stack.generate(PROMPT, max_tokens=12, version=v)["text"] for v in seen}
    for asked, answer in traffic.answers:
        assert answer["text"] == alone[answer["version"]]
        if asked > after_second:
            assert answer["version"] in (v0, second)
        elif asked > after_first:
            assert answer["version"] in (v0, first, second)
    assert len(set(alone.values())) > 1, "the edits changed no answer: the test shows nothing"


def test_a_pinned_version_outlives_swaps_and_restarts(make_stack: Callable[..., Stack]) -> None:
    """Six versions, of which one fits in memory, and a restart: each answers as it did when new."""
    stack = make_stack(resident_mb=0.001)
    fresh: dict[str, str] = {}
    for i in range(6):
        version = stack.run_edit({"facts": [fact(f"Keeper {i}", "Lisbon")]})["version"]
        fresh[version] = stack.generate("Keeper 3 lives in the town of", version=version)["text"]
    for version, text in reversed(fresh.items()):
        again = stack.generate("Keeper 3 lives in the town of", version=version)
        assert (again["version"], again["text"]) == (version, text)
    stack.stop_worker()
    stack.start_worker()
    stack.wait_ready()
    for version, text in fresh.items():
        assert stack.generate("Keeper 3 lives in the town of", version=version)["text"] == text


def test_many_swaps_leave_nothing_behind(make_stack: Callable[..., Stack]) -> None:
    """Under load, with room for one version, each swap loads one and frees one; every answer is its
    version's, and at the end the worker has the memory, files and threads of the beginning."""
    stack = make_stack(resident_mb=0.001)
    towns = ("Lisbon", "Berlin")
    versions = [stack.run_edit({"facts": [fact("Anna Keller", t)]})["version"] for t in towns]
    v0 = stack.registry.versions.resolve("v0")
    alone = {
        version: stack.generate(PROMPT, max_tokens=12, version=version)["text"]
        for version in (v0, *versions)
    }
    assert len(set(alone.values())) > 1, "the edits changed no answer: the test shows nothing"
    with Traffic(stack) as traffic:
        swap(stack, versions, SWAPS // 2)
        before = sample(stack)
        swap(stack, versions, SWAPS)
        after = sample(stack)
    assert not traffic.errors, traffic.errors[0]
    assert {answer["version"] for _, answer in traffic.answers} == {v0, *versions}
    assert all(answer["text"] == alone[answer["version"]] for _, answer in traffic.answers)
    assert after.rss_mb < before.rss_mb + MOST_GROWTH_MB
    assert after.files <= before.files + 2
    assert after.threads <= before.threads + 1


def swap(stack: Stack, versions: Sequence[str], times: int) -> None:
    """Move `active` so many times; whoever asks then gets the new version."""
    for number in range(times):
        version = versions[number % len(versions)]
        etag = stack.http.get("/aliases/active").headers["etag"]
        body = {"version": version}
        moved = stack.http.put("/aliases/active", json=body, headers={"If-Match": etag})
        assert moved.status_code == 200, moved.text
        assert stack.generate(PROMPT, max_tokens=12)["version"] == version


def sample(stack: Stack) -> Sample:
    assert stack.worker is not None
    found = of_process("worker", stack.worker.pid, 0)
    assert found is not None
    return found


def test_rollback_is_one_put(make_stack: Callable[..., Stack]) -> None:
    """Moving `active` back serves the old version to the very next request."""
    stack = make_stack()
    first = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})["version"]
    stack.run_edit({"facts": [fact("Anna Keller", "Berlin")]})
    etag = stack.http.get("/aliases/active").headers["etag"]
    moved = stack.http.put("/aliases/active", json={"version": first}, headers={"If-Match": etag})
    assert moved.status_code == 200, moved.text
    assert stack.generate(PROMPT)["version"] == first
    stale = stack.http.put("/aliases/active", json={"version": "v0"}, headers={"If-Match": etag})
    assert stale.status_code == 412


def test_a_split_serves_each_key_one_version_until_an_edit_ends_it(
    make_stack: Callable[..., Stack],
) -> None:
    """Both versions are in memory before anybody asks; a restarted service gives keys the same."""
    stack = make_stack()
    first = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})["version"]
    dry = {"facts": [fact("Anna Keller", "Berlin")], "activate": False}
    second = stack.run_edit(dry)["version"]
    stack.stop_worker()
    stack.start_worker()
    stack.wait_ready()
    (worker,) = stack.statuses()
    assert second not in worker.versions
    etag = stack.http.get("/aliases/active").headers["etag"]
    body = {"split": {first: 3, second: 1}}
    moved = stack.http.put("/aliases/active", json=body, headers={"If-Match": etag})
    assert moved.status_code == 200, moved.text
    split = {first, second}
    stack.until(lambda: split <= set(stack.statuses()[0].versions), "loading both versions")

    def served(key: str) -> tuple[str, str]:
        asked = {"prompt": PROMPT, "max_tokens": 12}
        answer = stack.http.post("/generate", json=asked, headers={"X-Memit-Sticky": key})
        assert answer.status_code == 200, answer.text
        return answer.json()["version"], answer.json()["text"]

    keys = [f"user {number}" for number in range(20)]
    before = {key: served(key) for key in keys}
    assert {version for version, _ in before.values()} == {first, second}
    alone = {v: stack.generate(PROMPT, max_tokens=12, version=v)["text"] for v in (first, second)}
    assert all(text == alone[version] for version, text in before.values())
    assert stack.service is not None
    stack.service.terminate()
    stack.service.wait(20)
    stack.start_service()
    stack.wait_ready()
    assert {key: served(key) for key in keys} == before

    third = stack.run_edit({"facts": [fact("Bruno Keller", "Madrid")]})["version"]
    assert stack.registry.versions.get(third).parent == first
    assert {served(key)[0] for key in keys} == {third}

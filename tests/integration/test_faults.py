"""Whatever dies in the middle of an edit, the edit ends committed once and `active` stays whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

SLOW_Z = {"v_num_grad_steps": 1_000, "v_lr": 1e-4}
MANY = [fact(f"Keeper number {i}", "Lisbon") for i in range(600)]


def check_committed_once(stack: Stack, edit_id: str) -> None:
    """The edit made exactly one version, `active` names it, and it answers."""
    edit = stack.wait_edit(edit_id)
    assert edit["state"] == "committed", (edit, stack.logs())
    versions = stack.http.get("/versions").json()["items"]
    assert [v["id"] for v in versions if v["edit_id"] == edit_id] == [edit["version"]]
    assert stack.registry.versions.resolve("active") == edit["version"]
    assert stack.generate("Anna lives in the town of", max_tokens=4)["version"] == edit["version"]


@pytest.mark.parametrize(
    ("stage", "facts", "hparams"),
    [
        ("z", [fact("Anna Keller", "Lisbon")], SLOW_Z),
        ("insert", MANY, {"v_num_grad_steps": 1}),
    ],
)
def test_a_worker_killed_in_the_middle(
    make_stack: Callable[..., Stack], stage: str, facts: list[dict[str, str]], hparams: dict
) -> None:
    """kill -9 during z and during insertion: the next worker runs the edit again, to one end."""
    stack = make_stack(hparams=hparams)
    before = stack.registry.versions.resolve("active")
    edit_id = stack.post_edit({"facts": facts})["id"]
    stack.wait_stage(edit_id, stage)
    stack.kill_worker()
    assert stack.registry.versions.resolve("active") == before
    assert stack.registry.edits.end(edit_id) is None
    stack.start_worker()
    check_committed_once(stack, edit_id)
    assert stack.edit(edit_id)["attempts"] == 2


def test_redis_killed_and_wiped_while_an_edit_waits(make_stack: Callable[..., Stack]) -> None:
    """The queue is gone for good; the registry is not, so the edit runs all the same."""
    stack = make_stack()
    stack.stop_worker()
    edit_id = stack.post_edit({"facts": [fact("Anna Keller", "Lisbon")]})["id"]
    stack.wipe_redis()
    stack.start_worker()
    check_committed_once(stack, edit_id)


def test_redis_killed_and_wiped_while_an_edit_runs(make_stack: Callable[..., Stack]) -> None:
    """The job, its lock and its progress vanish under the running edit, which ends all the same."""
    stack = make_stack(hparams={"v_num_grad_steps": 1_000, "v_lr": 1e-4})
    edit_id = stack.post_edit({"facts": [fact("Anna Keller", "Lisbon")]})["id"]
    stack.wait_stage(edit_id, "z")
    stack.wipe_redis()
    stack.wait_ready()
    check_committed_once(stack, edit_id)


def test_redis_down_while_an_edit_is_accepted(make_stack: Callable[..., Stack]) -> None:
    """Redis is transport: an edit is accepted without it and runs when it is back."""
    stack = make_stack()
    stack.redis.kill()
    edit_id = stack.post_edit({"facts": [fact("Anna Keller", "Lisbon")]})["id"]
    stack.redis.start()
    stack.wait_ready()
    check_committed_once(stack, edit_id)


def test_sigterm_leaves_the_edit_queued(make_stack: Callable[..., Stack]) -> None:
    """A worker that is asked to stop gives the edit back within a step, and exits with 0."""
    stack = make_stack(hparams=SLOW_Z)
    edit_id = stack.post_edit({"facts": [fact("Anna Keller", "Lisbon")]})["id"]
    stack.wait_stage(edit_id, "z")
    assert stack.stop_worker() == 0
    assert stack.edit(edit_id)["state"] == "queued"
    stack.start_worker()
    check_committed_once(stack, edit_id)


def test_a_running_edit_is_cancelled(make_stack: Callable[..., Stack]) -> None:
    """DELETE stops it between two steps; no version appears and the worker goes on."""
    stack = make_stack(hparams=SLOW_Z)
    edit_id = stack.post_edit({"facts": [fact("Anna Keller", "Lisbon")]})["id"]
    stack.wait_stage(edit_id, "z")
    assert stack.http.delete(f"/edits/{edit_id}").status_code in (200, 202)
    assert stack.wait_edit(edit_id)["state"] == "cancelled"
    assert stack.registry.versions.tip() == 0
    again = stack.http.delete(f"/edits/{edit_id}")
    assert again.status_code == 409
    assert stack.worker is not None
    assert stack.worker.poll() is None


def test_a_damaged_edit_stops_no_other(make_stack: Callable[..., Stack]) -> None:
    """An accepted edit whose record is cut short ends as failed; the one behind it is run."""
    stack = make_stack()
    stack.stop_worker()
    damaged = stack.post_edit({"facts": [fact("Anna Keller", "Lisbon")]})["id"]
    behind = stack.post_edit({"facts": [fact("Bruno Okafor", "Berlin")]})["id"]
    record = stack.home / "registry" / "edits" / damaged / "request.json"
    whole = record.read_bytes()
    record.chmod(0o600)
    record.write_bytes(whole[: len(whole) // 2])
    stack.start_worker()
    check_committed_once(stack, behind)
    end = stack.registry.edits.end(damaged)
    assert end is not None
    assert end.state == "failed"

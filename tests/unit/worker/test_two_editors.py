"""Two workers with one queue: one edits, the other works ahead and is free again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from contracts.edits import AcceptedEdit, EditRequest, EditState
from contracts.ids import new_edit_id
from contracts.transport import EDIT_QUEUE, EDITOR_LOCK, worker_key
from memit_core.facts import group_facts
from tests.unit.cli.waiting import wait_until
from tests.unit.worker.conftest import MakeWorkshop
from tests.unit.worker.workshop import Workshop, fact
from worker.core_fact import core_fact
from worker.edit_run import EditRunner
from worker.editor_lock import editor_lock
from worker.recovery import Recovery


def accept(workshop: Workshop, subject: str, **request: object) -> str:
    asked = EditRequest(facts=[fact(subject)], **request)
    edit = AcceptedEdit(id=new_edit_id(), request=asked, accepted_at=time.time())
    workshop.registry.edits.accept(edit)
    return edit.id


@contextmanager
def other_editor(workshop: Workshop, *, alive: bool = True) -> Iterator[None]:
    """Another worker holds the lock; its heartbeat is there, or not any more."""
    if alive:
        workshop.redis.set(worker_key("other"), "{}")
    with editor_lock(workshop.redis, "other", threading.Event()) as mine:
        assert mine
        yield
    workshop.redis.delete(worker_key("other"))


def has_z(workshop: Workshop, subject: str) -> bool:
    (group,) = group_facts([core_fact(fact(subject))])
    return workshop.editor.cache.get(workshop.editor.z_name(group)) is not None


def test_a_job_that_meets_another_editor_prepares_its_edit_and_is_given_back(
    workshop: Workshop,
) -> None:
    waiting = accept(workshop, "Anna Keller")
    with other_editor(workshop):
        workshop.runner.run(waiting)
        assert workshop.registry.edits.end(waiting) is None
        assert workshop.registry.edits.steps(waiting) == [], "it was not begun"
        assert has_z(workshop, "Anna Keller")
    workshop.runner.run(waiting)
    end = workshop.registry.edits.end(waiting)
    assert end is not None
    assert end.state is EditState.COMMITTED


def test_work_ahead_ends_when_the_edit_is_run(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = accept(workshop, "Anna Keller")
    assert workshop.registry.edits.start(waiting, "other", None, None)
    with other_editor(workshop), caplog.at_level(logging.INFO):
        workshop.runner.run(waiting)
    assert "its turn has come" in caplog.text
    assert not has_z(workshop, "Anna Keller")


def test_what_cannot_be_prepared_waits_for_its_turn(workshop: Workshop) -> None:
    """The edit that is running may be the one that makes it possible."""
    gone = accept(workshop, "Anna Keller", retract=["fact-" + "0" * 20])
    with other_editor(workshop):
        workshop.runner.run(gone)
        assert workshop.registry.edits.end(gone) is None
    workshop.runner.run(gone)
    end = workshop.registry.edits.end(gone)
    assert end is not None
    assert (end.state, end.problem and end.problem.status) == (EditState.FAILED, 409)


def test_one_job_runs_everything_that_waits(workshop: Workshop) -> None:
    waiting = [accept(workshop, name) for name in ("Anna Keller", "Bruno Okafor", "Martin Vega")]
    workshop.runner.run(waiting[1])
    ends = [workshop.registry.edits.end(edit) for edit in waiting]
    assert [end and end.state for end in ends] == [EditState.COMMITTED] * 3
    assert [end and end.version and end.version[:2] for end in ends] == ["v1", "v2", "v3"]


def test_an_edit_whose_job_was_given_back_is_not_forgotten(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is accepted, and its job given back, after the editor has looked for the last time and
    before it lets go of the lock."""
    editing, other = make_workshop(), make_workshop()
    editing.redis.set(worker_key("worker"), "{}")
    first = accept(editing, "Anna Keller")
    real: Callable[[EditRunner, set[str]], None] = EditRunner._run_waiting
    late: list[str] = []

    def run_waiting(runner: EditRunner, tried: set[str]) -> None:
        real(runner, tried)
        if not late:
            late.append(accept(other, "Bruno Okafor"))
            other.runner.run(late[0])
            assert other.registry.edits.end(late[0]) is None

    monkeypatch.setattr(EditRunner, "_run_waiting", run_waiting)
    editing.runner.run(first)
    end = editing.registry.edits.end(late[0])
    assert end is not None
    assert end.state is EditState.COMMITTED


def test_the_lock_of_a_dead_editor_is_waited_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.editor_lock.DEAD_HOLDER_SECONDS", 0.01)
    waiting = accept(workshop, "Anna Keller")
    workshop.redis.set(EDITOR_LOCK, "dead", px=300)
    workshop.runner.run(waiting)
    assert workshop.registry.edits.end(waiting) is not None


def test_nothing_is_queued_again_while_an_editor_is_at_it(workshop: Workshop) -> None:
    waiting = accept(workshop, "Anna Keller")
    recovery = Recovery(workshop.registry, workshop.redis)
    queued = f"rq:queue:{EDIT_QUEUE}"
    with other_editor(workshop):
        recovery.sweep()
        assert workshop.redis.llen(queued) == 0
    with other_editor(workshop, alive=False):
        recovery.sweep()
        assert workshop.redis.lrange(queued, 0, -1) == [waiting.encode()]


def test_an_option_that_the_method_lacks_is_the_clients_error(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EditRequest, "method_options", lambda _: {"rank": 3})
    end = workshop.run([fact("Anna Keller")])
    assert end.problem is not None
    assert end.problem.status == 422
    assert "memit has no option 'rank'; it has mom2_update_weight" in end.problem.detail


def test_a_version_is_not_solved_again_beside_an_edit(workshop: Workshop) -> None:
    """It would use the same tokenizer on another thread, which fast tokenizers refuse."""
    first = workshop.version([fact("Anna Keller")])
    (weight, *_) = workshop.registry.versions.get(first).weights
    store = workshop.registry.store
    store.set_aside(f"blobs/sha256/{weight.blob[:2]}/{weight.blob}")
    rebuilding = threading.Thread(target=workshop.maker.rebuild, args=(first,))
    seen: list[bool] = []

    def progress(*_: object, **__: object) -> None:
        if not seen:
            rebuilding.start()
        time.sleep(0.05)
        seen.append(rebuilding.is_alive())

    progress.close = lambda: None  # type: ignore[attr-defined]
    progress.seconds = {}  # type: ignore[attr-defined]
    edit = workshop.registry.edits.get(accept(workshop, "Bruno Okafor"))
    workshop.maker.make(edit, first, progress)
    assert len(seen) > 3
    assert all(seen)
    rebuilding.join(20)
    assert workshop.registry.blobs.has(weight.blob)


def test_a_lock_that_redis_lost_is_taken_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: then it is held and renewed as before, and released at the end."""
    monkeypatch.setattr("worker.editor_lock.LOCK_SECONDS", 0.6)
    with editor_lock(workshop.redis, "one", threading.Event()) as mine:
        assert mine
        workshop.redis.delete(EDITOR_LOCK)
        wait_until(lambda: workshop.redis.get(EDITOR_LOCK) == b"one")
        time.sleep(0.8)  # longer than it is held without being renewed
        assert workshop.redis.get(EDITOR_LOCK) == b"one"
        assert caplog.text.count("was lost, and is taken again") == 1
        workshop.redis.set(EDITOR_LOCK, "two")
        wait_until(lambda: "another worker holds it" in caplog.text)
        assert workshop.redis.get(EDITOR_LOCK) == b"two"
    assert workshop.redis.get(EDITOR_LOCK) == b"two", "what is another's is not released"

"""An edit's log: what decides between cancel and commit, and the one end of every edit."""

from __future__ import annotations

import threading
import time

import pytest

from contracts.edits import AcceptedEdit, EditEnd, EditState, EditStep, StepKind
from contracts.errors import Conflict
from registry import Registry
from tests.unit.registry.building import accepted, attempt, edit_manifest, run, with_v0


@pytest.fixture
def edit(registry: Registry) -> AcceptedEdit:
    with_v0(registry)
    edit = accepted()
    registry.edits.accept(edit)
    return edit


def kinds(registry: Registry, edit_id: str) -> list[str]:
    return [step.kind.value for step in registry.edits.steps(edit_id)]


def end_of(state: EditState) -> EditEnd:
    return EditEnd(state=state, at=time.time())


class TestTheWayOfAnEdit:
    def test_from_queued_to_committed(self, registry: Registry, edit: AcceptedEdit) -> None:
        seen = registry.edits.describe(edit.id)
        assert (seen.state, seen.attempts, seen.started_at) == (EditState.QUEUED, 0, None)

        stages = attempt(registry, edit.id)
        next(stages)
        seen = registry.edits.describe(edit.id)
        assert (seen.state, seen.attempts) == (EditState.RUNNING, 1)
        assert seen.started_at is not None
        assert seen.ended_at is None
        assert list(stages) == [None, None]

        seen = registry.edits.describe(edit.id)
        assert seen.state is EditState.COMMITTED
        assert seen.version == registry.versions.by_seq(1)
        assert seen.activated
        assert seen.ended_at is not None
        assert seen.report is not None
        assert [(each.subject, each.target_new) for each in seen.facts] == [
            ("The Eiffel Tower", "Rome")
        ]
        assert kinds(registry, edit.id) == ["running", "committing"]

    def test_given_up_and_taken_up_again(self, registry: Registry, edit: AcceptedEdit) -> None:
        edits = registry.edits
        edits.requeue(edit.id, "w0")
        assert kinds(registry, edit.id) == [], "what does not run is not given up"

        assert edits.start(edit.id, "w1", registry.versions.by_seq(0), 1)
        edits.requeue(edit.id, "w1")
        assert edits.describe(edit.id).state is EditState.QUEUED
        assert edits.unfinished() == [edit.id]

        assert edits.start(edit.id, "w2", registry.versions.by_seq(0), 1)
        seen = edits.describe(edit.id)
        assert (seen.state, seen.attempts) == (EditState.RUNNING, 2)
        first, _, last = edits.steps(edit.id)
        assert (first.worker, last.worker) == ("w1", "w2")
        assert (last.parent, last.active_epoch) == (registry.versions.by_seq(0), 1)
        assert seen.started_at == first.at

    def test_a_step_needs_the_position_that_its_writer_saw(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        step = EditStep(kind=StepKind.RUNNING, at=1.0)
        assert registry.edits.append(edit.id, step, 0)
        assert not registry.edits.append(edit.id, step, 0)
        assert not registry.edits.append(edit.id, step, 2)
        assert registry.edits.append(edit.id, step, 1)

    def test_superseded_facts_come_from_the_manifest(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        pair = (f"fact-{'0' * 20}", f"fact-{'1' * 20}")
        assert registry.edits.begin_commit(edit.id, "w", None)
        version = registry.versions.commit(edit_manifest(registry, edit, 1, superseded=[pair]))
        registry.edits.finish(edit.id, EditEnd(state=EditState.COMMITTED, at=1.0, version=version))
        [superseded] = registry.edits.describe(edit.id).superseded
        assert (superseded.old, superseded.new) == pair


class TestCancel:
    def test_a_waiting_edit_ends_at_once(self, registry: Registry, edit: AcceptedEdit) -> None:
        registry.edits.request_cancel(edit.id)
        assert registry.edits.describe(edit.id).state is EditState.CANCELLED
        assert not registry.edits.start(edit.id, "w", None, None)
        assert registry.edits.unfinished() == []
        registry.edits.request_cancel(edit.id)

    def test_a_running_edit_is_told_and_cannot_commit(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        worker = Registry(registry.store)
        stages = attempt(worker, edit.id)
        next(stages)
        assert not worker.edits.cancel_requested(edit.id)

        registry.edits.request_cancel(edit.id)
        registry.edits.request_cancel(edit.id)
        assert kinds(registry, edit.id) == ["running", "cancel_requested"]
        assert registry.edits.describe(edit.id).state is EditState.RUNNING
        assert registry.edits.describe(edit.id).cancel_requested
        assert worker.edits.cancel_requested(edit.id)
        assert not worker.edits.begin_commit(edit.id, "worker", 1)

        assert list(stages) == []
        assert registry.edits.describe(edit.id).state is EditState.CANCELLED
        assert registry.versions.tip() == 0

    def test_once_committing_it_is_refused(self, registry: Registry, edit: AcceptedEdit) -> None:
        stages = attempt(registry, edit.id)
        next(stages)
        next(stages)
        with pytest.raises(Conflict, match="is committing"):
            registry.edits.request_cancel(edit.id)
        assert list(stages) == [None]
        with pytest.raises(Conflict, match="is committed"):
            registry.edits.request_cancel(edit.id)
        assert not registry.edits.cancel_requested(edit.id)

    def test_what_a_dead_worker_did_not_carry_out_the_next_one_does(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        next(attempt(registry, edit.id))
        registry.edits.request_cancel(edit.id)
        assert registry.edits.end(edit.id) is None

        assert not Registry(registry.store).edits.start(edit.id, "w2", None, None)
        assert registry.edits.describe(edit.id).state is EditState.CANCELLED

    def test_of_a_given_up_attempt_ends_at_once(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        next(attempt(registry, edit.id))
        registry.edits.requeue(edit.id, "worker")
        registry.edits.request_cancel(edit.id)
        assert registry.edits.describe(edit.id).state is EditState.CANCELLED

    def test_racing_a_commit_exactly_one_of_them_wins(self, registry: Registry) -> None:
        with_v0(registry)
        outcomes = set()
        for _ in range(10):
            edit = accepted()
            registry.edits.accept(edit)
            stages = attempt(Registry(registry.store), edit.id)
            next(stages)
            start = threading.Barrier(2)
            refused: list[Conflict] = []

            def cancel(edit_id: str, start: threading.Barrier, refused: list[Conflict]) -> None:
                start.wait()
                try:
                    Registry(registry.store).edits.request_cancel(edit_id)
                except Conflict as conflict:
                    refused.append(conflict)

            client = threading.Thread(target=cancel, args=(edit.id, start, refused))
            client.start()
            start.wait()
            list(stages)
            client.join()

            state = registry.edits.describe(edit.id).state
            outcomes.add(state)
            assert state is (EditState.COMMITTED if refused else EditState.CANCELLED)
            assert (registry.versions.of_edit(edit.id) is None) is (state is EditState.CANCELLED)
        assert outcomes <= {EditState.COMMITTED, EditState.CANCELLED}


class TestEnd:
    def test_the_first_end_stands(self, registry: Registry, edit: AcceptedEdit) -> None:
        failed = registry.edits.finish(edit.id, end_of(EditState.FAILED))
        other = Registry(registry.store)
        assert other.edits.finish(edit.id, end_of(EditState.CANCELLED)) == failed
        assert other.edits.end(edit.id) == failed
        assert not registry.edits.start(edit.id, "w", None, None)
        assert not registry.edits.begin_commit(edit.id, "w", None)
        with pytest.raises(Conflict, match="is failed"):
            registry.edits.request_cancel(edit.id)

    def test_an_edit_that_made_a_version_cannot_end_otherwise(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        registry.versions.commit(edit_manifest(registry, edit, 1))
        with pytest.raises(Conflict, match="it cannot end as failed"):
            registry.edits.finish(edit.id, end_of(EditState.FAILED))
        assert registry.edits.end(edit.id) is None
        assert run(registry, edit.id).state is EditState.COMMITTED

    def test_an_edit_without_a_version_cannot_end_as_committed(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        end = EditEnd(state=EditState.COMMITTED, at=1.0, version=registry.versions.by_seq(0))
        for wrong in (end, end_of(EditState.COMMITTED), end_of(EditState.REJECTED)):
            with pytest.raises(Conflict, match="made version None"):
                registry.edits.finish(edit.id, wrong)
        with pytest.raises(ValueError, match="not a final state"):
            registry.edits.finish(edit.id, end_of(EditState.RUNNING))
        assert registry.edits.end(edit.id) is None

    def test_of_many_ends_at_once_everybody_gets_the_same(
        self, registry: Registry, edit: AcceptedEdit
    ) -> None:
        start = threading.Barrier(8)
        ends: list[EditEnd] = []

        def finish(at: int) -> None:
            own = Registry(registry.store)
            start.wait()
            ends.append(own.edits.finish(edit.id, EditEnd(state=EditState.FAILED, at=at)))

        workers = [threading.Thread(target=finish, args=(at,)) for at in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len({end.at for end in ends}) == 1

"""Anything may die between any two puts: what must hold then, tried over random histories.

Workers walk edits through their stages, side by side and also twice the same edit; clients submit,
replay and cancel; an operator moves `active`; and any of them may be killed before any of its puts.
After every step the promises hold, and in the end every accepted edit gets its one end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts.edits import EditEnd, EditState
from contracts.errors import Conflict, PreconditionFailed
from contracts.versions import VersionStatus
from registry import FolderStore, Registry, finish_edit
from registry.store import Store
from tests.unit.registry.building import accepted, attempt, run, with_v0
from tests.unit.registry.stores import Killed, MemoryStore, MortalStore

MEMORY = Path("/dev/shm")  # noqa: S108 - syncing to a real disk would take most of the time
DEATH = st.none() | st.integers(0, 7)
PICK = st.integers(0, 2)  # few, so that histories meet at the same edit
OUTCOME = st.sampled_from([{}, {}, {"rejected": True}, {"fails": True}])
KEYS = st.sampled_from([None, None, "key 1", "key 2"])


class Histories(RuleBasedStateMachine):
    def new_store(self) -> Store:
        return MemoryStore()

    def __init__(self) -> None:
        super().__init__()
        self.store = self.new_store()
        self.observer = Registry(self.store)
        self.attempts: list[tuple[MortalStore, Iterator[None]]] = []
        self.answered: list[str] = []
        self.by_key: dict[str, str] = {}
        self.ends: dict[str, EditEnd] = {}
        self.cancelled: set[str] = set()

    def process(self, dies_at: int | None) -> Registry:
        store = MortalStore(self.store)
        store.puts_left = dies_at
        return Registry(store)

    def some_edit(self, pick: int) -> str:
        return self.answered[-1 - pick % len(self.answered)]

    @initialize(dies_at=DEATH)
    def first_start(self, dies_at: int | None) -> None:
        try:
            with_v0(self.process(dies_at))
        except Killed:
            registry = self.process(None)
            version = registry.versions.by_seq(0)
            if version is None:
                with_v0(registry)
            elif registry.aliases.get("active") is None:
                registry.aliases.move("active", version, 0)
        self.submit(key="key 1", dies_at=None)

    @rule(key=KEYS, dies_at=st.none() | st.integers(0, 3))
    def submit(self, key: str | None, dies_at: int | None) -> None:
        try:
            edit_id, new = self.process(dies_at).edits.accept(accepted(f"city of {key}"), key)
        except Killed:
            return
        if new:
            self.answered.append(edit_id)
        if key is not None:
            if not new and edit_id not in self.answered:
                self.answered.append(edit_id)  # completed what an earlier request left undone
            assert self.by_key.setdefault(key, edit_id) == edit_id

    @rule(pick=PICK, outcome=OUTCOME)
    def begin(self, pick: int, outcome: dict[str, bool]) -> None:
        store = MortalStore(self.store)
        stages = attempt(Registry(store), self.some_edit(pick), **outcome)
        if next(stages, "over") != "over":
            self.attempts.append((store, stages))

    @precondition(lambda self: self.attempts)
    @rule(pick=PICK, steps=st.integers(1, 3), dies_at=DEATH)
    def go_on(self, pick: int, steps: int, dies_at: int | None) -> None:
        index = -1 - pick % len(self.attempts)
        store, stages = self.attempts[index]
        store.puts_left = dies_at
        try:
            for _ in range(steps):
                next(stages)
        except (StopIteration, Killed):
            del self.attempts[index]
        else:
            store.puts_left = None

    @rule(pick=PICK, outcome=OUTCOME, dies_at=DEATH)
    def run_through(self, pick: int, outcome: dict[str, bool], dies_at: int | None) -> None:
        try:
            run(self.process(dies_at), self.some_edit(pick), **outcome)
        except Killed:
            return

    @rule(pick=PICK, dies_at=st.none() | st.integers(0, 1))
    def cancel(self, pick: int, dies_at: int | None) -> None:
        edit_id = self.some_edit(pick)
        try:
            self.process(dies_at).edits.request_cancel(edit_id)
        except (Conflict, Killed):
            return
        assert self.observer.edits.cancel_requested(edit_id)
        self.cancelled.add(edit_id)

    @rule(pick=PICK)
    def give_up(self, pick: int) -> None:
        self.process(None).edits.requeue(self.some_edit(pick), "worker")

    @rule(pick=PICK, dies_at=st.none() | st.integers(0, 1))
    def recover_one(self, pick: int, dies_at: int | None) -> None:
        try:
            finish_edit(self.process(dies_at), self.some_edit(pick))
        except Killed:
            return

    @rule(pick=PICK, stale=st.booleans())
    def operator_moves_active(self, pick: int, stale: bool) -> None:
        registry = self.process(None)
        record = registry.aliases.get("active")
        version = registry.versions.by_seq(pick % (registry.versions.tip() + 1))
        assert record is not None
        assert version is not None
        try:
            registry.aliases.move("active", version, record.epoch - stale)
        except (Conflict, PreconditionFailed):
            assert stale or registry.versions.get(version).status is VersionStatus.REJECTED

    @invariant()
    def promises_hold(self) -> None:
        check(self.observer)
        for edit_id in self.answered:
            end = self.observer.edits.end(edit_id)
            if end is not None:
                assert self.ends.setdefault(edit_id, end) == end
        for edit_id in self.cancelled:
            assert self.observer.versions.of_edit(edit_id) is None, "the cancel was granted"
        unfinished = self.observer.edits.unfinished()
        assert set(unfinished) >= set(self.answered) - set(self.ends)
        assert not set(unfinished) & set(self.ends)

    def teardown(self) -> None:
        if self.answered:  # else it was stopped before the first step
            self.all_come_to_an_end()

    def all_come_to_an_end(self) -> None:
        recovering = self.process(None)
        for edit_id in recovering.edits.unfinished():
            run(recovering, edit_id)
        for _, stages in self.attempts:  # what was only asleep wakes up, too late
            list(stages)

        fresh = Registry(self.store)
        check(fresh)
        assert fresh.edits.unfinished() == []
        order, _ = fresh.edits.page(10_000)
        assert len(order) == len(set(order)), "no edit has two places"
        assert set(order) >= set(self.answered)
        for edit_id in order:
            end = fresh.edits.end(edit_id)
            assert end is not None
            assert self.ends.get(edit_id, end) == end
            assert fresh.edits.describe(edit_id).state is end.state
        for key, edit_id in self.by_key.items():
            replay = accepted(f"city of {key}")
            assert fresh.edits.accept(replay, key) == (edit_id, False)


def check(registry: Registry) -> None:
    """What must hold at any moment, whoever is dead."""
    moved_by = set()
    for name in registry.aliases.names():
        history = registry.aliases.history(name)
        assert [record.epoch for record in history] == list(range(1, len(history) + 1))
        for record in history:
            manifest = registry.versions.get(record.version)
            assert manifest.status is VersionStatus.COMMITTED
            moved_by.add(record.edit_id)
        for weights in manifest.weights:
            registry.blobs.get(weights.blob)
        assert len(registry.ledger.live(history[-1].version)) == manifest.live_count

    made: dict[str, str] = {}
    for number in range(registry.versions.tip() + 1):
        version = registry.versions.by_seq(number)
        assert version is not None
        edit_id = registry.versions.get(version).edit_id
        if edit_id is not None:
            assert edit_id not in made, "no edit is committed twice"
            made[edit_id] = version

    for edit_id in registry.edits.page(10_000)[0]:
        assert registry.versions.of_edit(edit_id) == made.get(edit_id)
        end = registry.edits.end(edit_id)
        if end is None:
            continue
        if end.state in (EditState.COMMITTED, EditState.REJECTED):
            assert end.version == made[edit_id]
            assert end.activated is (edit_id in moved_by)
        else:
            assert edit_id not in moved_by
        if end.state is EditState.CANCELLED:
            assert edit_id not in made


class FolderHistories(Histories):
    def new_store(self) -> Store:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        return FolderStore(Path(self.folder.name) / "registry")

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.folder.cleanup()


COMMON = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no defect
)
TestHistories = Histories.TestCase
TestHistories.settings = COMMON
TestFolderHistories = FolderHistories.TestCase
TestFolderHistories.settings = COMMON

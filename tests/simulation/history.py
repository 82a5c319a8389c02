"""One history: actors take small steps in a drawn order, break off anywhere, and begin again.

An actor's step runs until its next pause. Before any operation of it on the store another actor may
take a step of its own, and before any of that one a third; so two meet in the middle of whatever
they do. There are no threads, and a seed gives the same history each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, pairwise
from random import Random

from contracts.edits import EditState
from contracts.versions import VersionStatus
from registry import Registry
from registry.checkup import examine
from registry.errors import StorageError
from tests.simulation.actors import Actors, Script
from tests.simulation.faults import CALM, Disk, FaultyStore, Killed, Rates

STEPS = 25
DEEP = 2
"""How many steps may be in the middle of one another, besides the first."""


class Process:
    """One that runs a script again and again, with the caches of a registry that is open."""

    def __init__(self, history: History, name: str, script: Script, once: bool = False) -> None:
        self.name = name
        self.running = False
        self.over = False
        self._history = history
        self._script = script
        self._once = once
        self._steps: Iterator[None] | None = None
        self._registry: Registry | None = None

    def step(self) -> None:
        """Go on to the next pause, or begin again."""
        self.running = True
        if self._registry is None:
            self._registry = self._history.open(self)
        if self._steps is None:
            self._steps = self._script(self._registry)
        try:
            next(self._steps)
        except StopIteration:
            self._steps, self.over = None, self._once
        except StorageError:
            self._steps = None  # what it has read stays in its caches
        except Killed:
            self.restart()
        finally:
            self.running = False

    def restart(self) -> None:
        """Begin anew, knowing nothing."""
        self._steps = self._registry = None


class History:
    """A registry and those who work with it."""

    def __init__(self, seed: int, rates: Rates = Rates()) -> None:  # noqa: B008 - it is frozen
        self.disk = Disk()
        self.trace: list[tuple[str, str, str]] = []
        """(actor, operation, key) of every operation on the store."""
        self._seed = seed
        self._draw = Random(seed)
        self._rates = rates
        self._depth = 0
        self._actors = Actors(self._draw)
        self._processes: list[Process] = []

    def open(self, process: Process) -> Registry:
        def before_each(operation: str, key: str) -> None:
            self.trace.append((process.name, operation, key))
            if self._depth <= DEEP and self._draw.random() < self._rates.rival:
                self._someone()

        return Registry(FaultyStore(self.disk, self._draw, self._rates, before_each))

    def run(self) -> None:
        """Take the steps, then end everything and check what must hold.

        Raises:
            AssertionError: it does not.
        """
        actors = self._actors
        first = Process(self, "first", actors.begin, once=True)
        while not first.over:
            first.step()
        keys = [None, None, "key"]
        scripts: list[tuple[str, Script, bool]] = [
            *((f"client {i}", actors.client(keys[i % 3]), True) for i in range(3)),
            ("editor 1", actors.editor, False),
            ("editor 2", actors.editor, False),
            ("canceller", actors.canceller, True),
            ("operator", actors.operator, False),
            ("reader", actors.reader, False),
            ("pruner", actors.pruner, False),
        ]
        self._processes = [Process(self, *one) for one in scripts]
        for _ in range(STEPS):
            self._someone()
        self._settle()
        outcome = Outcome(self.disk, actors)
        outcome.check()
        if self._seed % 10 == 0:
            outcome.check_files()

    def _someone(self) -> None:
        free = [one for one in self._processes if not one.running and not one.over]
        if free:
            self._depth += 1
            try:
                self._draw.choice(free).step()
            finally:
                self._depth -= 1

    def _settle(self) -> None:
        """Nothing fails any more: the clients are served, one editor runs what is left.

        But for the pruner, which goes on beside it: by now there are versions to take weights from.
        """
        [pruner] = [one for one in self._processes if one.name == "pruner"]
        self.disk.arrive()
        self._rates = CALM
        for process in [one for one in self._processes if one.name.startswith("client")]:
            process.restart()
            while not process.over:
                process.step()
        last = self.open(Process(self, "last", self._actors.editor))
        for _ in count():
            for _ in self._actors.editor(last):
                pruner.step()
            if not last.edits.unfinished():
                break
        for _ in range(2 * STEPS):
            pruner.step()


class Outcome:
    """What a fresh process finds in the end."""

    def __init__(self, disk: Disk, actors: Actors) -> None:
        self._told = actors.told
        self._disk = disk
        self._registry = Registry(FaultyStore(disk, Random(0), CALM, lambda _operation, _key: None))

    def check(self) -> None:
        """Every promise."""
        self._edits()
        self._versions()
        self._aliases()
        self._logs()

    def check_files(self) -> None:
        """The doctor finds nothing that is lost for good; it reads all, so not of every history."""
        assert [one for one in examine(self._registry).findings if not one.derived] == []

    def _edits(self) -> None:
        registry, placed = self._registry, self._registry.edits.page(1_000)[0]
        assert len(set(placed)) == len(placed), "an edit has one place"
        assert set(self._told.accepted) <= set(placed), "what was accepted is not lost"
        for edit_id in placed:
            end = registry.edits.end(edit_id)
            assert end is not None, f"{edit_id} has not ended"
            assert self._told.ends.get(edit_id, end) == end, "an edit ends once"
            assert end.version == registry.versions.of_edit(edit_id)
            made = end.state in (EditState.COMMITTED, EditState.REJECTED)
            assert made is (end.version is not None)
            assert not (made and edit_id in self._told.cancelled), "a cancel that was told holds"
            assert registry.edits.get(edit_id) == self._told.accepted.get(
                edit_id, registry.edits.get(edit_id)
            )

    def _versions(self) -> None:
        registry = self._registry
        by_edit: list[str] = []
        released = registry.releases.versions()
        given_up = {blob for one in released for blob in registry.versions.get(one).blobs}
        for number in range(registry.versions.tip() + 1):
            version = registry.versions.by_seq(number)
            assert version is not None, f"no version {number}"
            made = registry.versions.get(version)
            registry.ledger.live(version)
            for blob in made.blobs:
                if registry.blobs.has(blob) or blob not in given_up:
                    registry.blobs.get(blob)  # raises unless it is whole
            by_edit += [made.edit_id] if made.edit_id else []
        assert len(set(by_edit)) == len(by_edit), "an edit is committed once"

    def _aliases(self) -> None:
        registry = self._registry
        for name in registry.aliases.names():
            for record in registry.aliases.history(name):
                status = registry.versions.get(record.version).status
                assert status is VersionStatus.COMMITTED, "an alias names what may be served"
                assert not registry.versions.get(record.version).dry_run or record.edit_id is None

    def _logs(self) -> None:
        numbers: dict[str, list[int]] = {}
        for key in self._disk.files:
            found = re.fullmatch(r"((?:edits|versions|aliases)/.*)/(\d+)\.json", key)
            if found is not None:
                numbers.setdefault(found[1], []).append(int(found[2]))
        for log, there in numbers.items():
            there.sort()
            assert there[0] == log.startswith("aliases"), f"{log} begins at {there[0]}"
            assert all(after == before + 1 for before, after in pairwise(there)), f"{log}: a gap"

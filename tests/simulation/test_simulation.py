"""Some thousand histories of the registry; `make simulate` runs as many as one likes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise

import pytest

from contracts.errors import Conflict
from registry import versions
from tests.simulation.faults import Rates
from tests.simulation.history import History

HISTORIES = 2_000
BLOCK = 250


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is damaged is logged, thousands of times here."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, HISTORIES, BLOCK))
def test_what_was_promised_holds(first: int) -> None:
    for seed in range(first, first + BLOCK):
        try:
            History(seed).run()
        except BaseException as error:
            error.add_note(f"python -m tests.simulation --first {seed} --histories 1")
            raise


def test_a_seed_gives_the_same_history() -> None:
    first, again = History(7), History(7)
    first.run()
    again.run()
    assert len(first.trace) > 100
    assert first.trace == again.trace


def test_everything_that_can_happen_happens() -> None:
    """Edits end in every way, actors meet, and faults strike."""
    met = ends = quarantined = removed = 0
    for seed in range(100):
        history = History(seed, Rates(killed=0.03, torn=1.0))
        history.run()
        names = [name for name, _, _ in history.trace]
        met += sum(a != b for a, b in pairwise(names))
        ends += sum(key.endswith("/end.json") for key in history.disk.files)
        quarantined += sum(key.startswith("quarantine/") for key in history.disk.files)
        removed += sum(operation == "remove" for _, operation, _ in history.trace)
    assert met > 2_000
    assert ends > 300
    assert quarantined > 2
    assert removed > 30


def test_a_broken_protocol_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that does not look whether its edit is in the log already does it twice."""
    monkeypatch.setattr(versions.Versions, "of_edit", lambda _self, _edit_id: None)
    broken = [seed for seed in range(30) if not holds(seed)]
    assert len(broken) > 3


def holds(seed: int) -> bool:
    try:
        History(seed).run()
    except (AssertionError, Conflict):
        return False
    return True

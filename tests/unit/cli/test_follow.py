"""Progress where there is no terminal to draw bars on: lines, not too many."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.follow import StageBars
from contracts.edits import Progress


def told(monkeypatch: pytest.MonkeyPatch, every: float) -> list[str]:
    monkeypatch.setattr("cli.follow.SAY_SECONDS", every)
    out = io.StringIO()
    with StageBars(Console(file=out)) as bars:
        for done in (0, 25, 50):
            bars.show(
                Progress(stage="z", done=done, total=50, loss=1.5, eta_seconds=50.0 - done, at=0)
            )
        bars.show(Progress(stage="insert", done=0, total=5, loss=None, eta_seconds=None, at=0))
        bars.finish()
    return out.getvalue().splitlines()


def test_a_long_stage_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, every=-1.0) == [
        "optimise z (50)",
        "optimise z: 25 of 50  loss 1.500, 25 s left",
        "optimise z: 50 of 50  loss 1.500, 0 s left",
        "insert into the layers (5)",
    ]


def test_a_short_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, every=60.0) == ["optimise z (50)", "insert into the layers (5)"]

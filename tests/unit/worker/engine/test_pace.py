"""How many prompt tokens a step takes."""

from __future__ import annotations

import pytest

from worker.engine.pace import LEAST, STEPS, Pace


def test_alone_a_prompt_takes_all_that_a_step_may() -> None:
    pace = Pace(512)
    assert pace.tokens(running=0, waiting=1) == 512
    pace.prefilled(512, 10.0)
    pace.decoded(0.01)
    assert pace.tokens(running=0, waiting=1) == 512


def test_beside_running_rows_it_takes_about_the_time_of_their_step() -> None:
    pace = Pace(512)
    for _ in range(30):
        pace.prefilled(100, 0.1)
        pace.decoded(0.05)
    assert pace.tokens(running=3, waiting=1) == pytest.approx(STEPS * 50, abs=1)
    for _ in range(30):
        pace.decoded(0.2)
    assert pace.tokens(running=3, waiting=1) == pytest.approx(STEPS * 200, abs=2), (
        "the means follow the machine"
    )


def test_it_has_bounds() -> None:
    pace = Pace(512)
    assert pace.tokens(running=1, waiting=1) == LEAST, "nothing was measured yet"
    pace.prefilled(1, 10.0)
    pace.decoded(0.01)
    assert pace.tokens(running=1, waiting=1) == LEAST, "a prompt comes to its end on any machine"
    fast = Pace(512)
    fast.prefilled(512, 0.001)
    fast.decoded(10.0)
    assert fast.tokens(running=1, waiting=1) == 512
    assert Pace(8).tokens(running=1, waiting=1) == 8


def test_where_more_wait_than_run_the_prompts_take_the_greater_part() -> None:
    pace = Pace(512)
    pace.prefilled(100, 0.1)
    pace.decoded(0.05)
    assert pace.tokens(running=4, waiting=4) == pytest.approx(STEPS * 50, abs=1)
    assert pace.tokens(running=4, waiting=12) == pytest.approx(STEPS * 150, abs=1)
    assert pace.tokens(running=1, waiting=100) == 512


def test_where_time_cannot_be_taken_it_takes_all() -> None:
    pace = Pace(512, on_cpu=False)
    pace.prefilled(512, 10.0)
    pace.decoded(0.01)
    assert pace.tokens(running=4, waiting=1) == 512

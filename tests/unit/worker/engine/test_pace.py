"""How many prompt tokens a step takes."""

from __future__ import annotations

import pytest

from worker.engine.pace import (
    ALONE_SECONDS,
    BURST_SECONDS,
    LEAST,
    LEAST_ALONE,
    PADDING,
    SHORT,
    STEPS,
    WORTH,
    Pace,
)


def test_alone_prompts_take_what_there_is_time_for() -> None:
    pace, least = Pace(2048), LEAST_ALONE
    assert pace.tokens(running=0, waiting=1) == least
    pace.prefilled(1000, 1.0)
    assert pace.tokens(running=0, waiting=1) == 2048
    for _ in range(30):
        pace.prefilled(1000, 3.0)
    assert pace.tokens(running=0, waiting=1) == pytest.approx(1000 * ALONE_SECONDS / 3, abs=10)
    for _ in range(30):
        pace.prefilled(1000, 100.0)
    assert pace.tokens(running=0, waiting=1) == least
    assert Pace(100).tokens(running=0, waiting=1) == 100


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


def test_where_half_as_many_short_ones_wait_as_rows_run_they_have_a_second() -> None:
    pace = Pace(2048)
    assert pace.burst(running=1, lengths=[SHORT]) == 0, "nothing was measured yet"
    pace.prefilled(100, 0.1)
    second = pytest.approx(1000 * BURST_SECONDS, abs=1)
    assert pace.burst(running=4, lengths=[SHORT, 10]) == second
    assert pace.burst(running=4, lengths=[SHORT]) == 0
    assert pace.burst(running=4, lengths=[SHORT, SHORT + 1]) == 0, "long ones are none of them"
    assert pace.burst(running=0, lengths=[]) == 0
    assert Pace(2048, on_cpu=False).burst(running=1, lengths=[SHORT]) == 0


def test_where_time_cannot_be_taken_it_takes_all() -> None:
    pace = Pace(512, on_cpu=False)
    pace.prefilled(512, 10.0)
    pace.decoded(0.01)
    assert pace.tokens(running=4, waiting=1) == 512


def test_on_a_cpu_prompts_of_unlike_length_are_computed_apart() -> None:
    pace, elsewhere = Pace(512), Pace(512, on_cpu=False)
    assert pace.together([100])
    assert pace.together([100, 100 - PADDING])
    assert not pace.together([100, 99 - PADDING])
    assert not pace.together([100, 100, 100, 92, 91])
    assert elsewhere.together([100, 1])
    assert not pace.together([200, 200, 200])
    assert not elsewhere.together([200, 1, 1])


def test_what_is_left_of_a_step_is_used_where_it_is_worth_a_forward() -> None:
    assert Pace(512).rest(LEAST) == LEAST
    assert Pace(512).rest(LEAST - 1) == 0
    assert Pace(512).rest(-10) == 0


def test_a_long_prompt_and_new_ones_share_a_step() -> None:
    pace = Pace(512)
    assert pace.split(400, 0, new=True) == ([], 400)
    assert pace.split(400, 0, new=False) == ([], 400), "what is loaded just now"
    assert pace.split(400, 1, new=False) == ([400], 0)
    assert pace.split(400, 1, new=True) == ([200], 200)
    assert pace.split(400, 2, new=False) == ([200, 200], 0)


def test_where_a_step_is_short_they_take_turns() -> None:
    pace, most = Pace(512), 2 * WORTH - 1
    seen = [pace.split(most, 1, new=True) for _ in range(3)]
    assert seen == [([0], most), ([most], 0), ([0], most)]
    pace = Pace(512)
    thirds = [pace.split(2 * WORTH, 2, new=True) for _ in range(3)]
    assert thirds == [([WORTH, 0], WORTH), ([0, WORTH], WORTH), ([WORTH, WORTH], 0)]


def test_a_piece_may_go_on_to_the_end_of_a_prompt() -> None:
    assert Pace(512).to_the_end(100) == 100 + LEAST
    assert Pace(110).to_the_end(100) == 110, "never more than a step may take"

"""Where the time of a request went: phases, counts, and what a header says of them."""

from __future__ import annotations

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.generation import EndEvent, GenerateEvent, StartEvent, TokenEvent, Usage
from service.metrics import Metrics
from service.timing import Timer

VERSION = "v1-0123456789ab"


class Clock:
    """Seconds that go by when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def start() -> StartEvent:
    return StartEvent(id="gen-0", version=VERSION, worker="w")


def end(tokens: int, choice: int = 0) -> EndEvent:
    usage = Usage(prompt_tokens=7, completion_tokens=tokens)
    return EndEvent(choice=choice, version=VERSION, finish_reason="length", usage=usage)


def token(choice: int = 0) -> TokenEvent:
    return TokenEvent(choice=choice, text="a")


def heard(clock: Clock, timer: Timer, *events: tuple[float, GenerateEvent]) -> None:
    """Each so many seconds after the one before."""
    for seconds, event in events:
        clock.now += seconds
        timer.take_event(0, event)


def sums(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name.endswith(("_sum", "_tokens_total", "_seconds_count"))
    }


def test_the_phases_of_a_request_add_up_to_it(clock: Clock) -> None:
    metrics = Metrics()
    timer = Timer(metrics)
    heard(clock, timer, (0.5, start()), (2, token()), (0.1, token()), (0.3, token()), (0, end(3)))
    seen = sums(metrics)
    phases = {"queue": 0.5, "prefill": 2, "decode": 0.4}
    for phase, seconds in phases.items():
        assert seen[f"memit_request_{phase}_time_seconds_sum"] == pytest.approx(seconds)
    assert seen["memit_e2e_request_latency_seconds_sum"] == pytest.approx(sum(phases.values()))
    assert seen["memit_time_to_first_token_seconds_sum"] == pytest.approx(2.5)
    assert seen["memit_inter_token_latency_seconds_sum"] == pytest.approx(0.4)
    assert seen["memit_request_time_per_output_token_seconds_sum"] == pytest.approx(0.2)
    assert (seen["memit_prompt_tokens_total"], seen["memit_generation_tokens_total"]) == (7, 3)


def test_choices_have_ends_of_their_own_and_one_prompt(clock: Clock) -> None:
    metrics = Metrics()
    timer = Timer(metrics)
    heard(clock, timer, (1, start()), (1, token(0)), (0, token(1)), (1, end(2)), (1, end(1, 1)))
    seen = sums(metrics)
    assert seen["memit_request_queue_time_seconds_count"] == 1
    assert seen["memit_request_prefill_time_seconds_count"] == 2
    assert seen["memit_request_decode_time_seconds_sum"] == pytest.approx(1 + 2)
    assert seen["memit_request_time_per_output_token_seconds_count"] == 1, "one has one token"
    assert (seen["memit_prompt_tokens_total"], seen["memit_generation_tokens_total"]) == (7, 3)


def test_an_answer_that_begins_anew_waited_once(clock: Clock) -> None:
    metrics = Metrics()
    timer = Timer(metrics)
    heard(clock, timer, (1, start()), (5, start()), (2, token()), (1, end(1)))
    seen = sums(metrics)
    assert seen["memit_request_queue_time_seconds_count"] == 1
    assert seen["memit_request_prefill_time_seconds_sum"] == pytest.approx(2)


def test_the_header_says_what_is_known_when_it_goes_out(clock: Clock) -> None:
    timer = Timer(Metrics())
    clock.now += 0.25
    assert timer.server_timing == "total;dur=250.0"
    heard(clock, timer, (0.25, start()))
    clock.now += 0.5
    assert timer.server_timing == "queue;dur=500.0, total;dur=1000.0"
    heard(clock, timer, (0.5, token()), (1, token()), (0, end(2)))
    assert timer.server_timing == (
        "queue;dur=500.0, prefill;dur=1000.0, decode;dur=1000.0, total;dur=2500.0"
    )

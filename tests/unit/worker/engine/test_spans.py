"""Spans of generations that end in every way, as a collector gets them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts import tracing
from contracts.errors import Unavailable
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    StartEvent,
    TokenEvent,
    Usage,
)
from contracts.origin import Origin
from contracts.sampling import Sampling
from tests.otlp import Collector, collector
from worker.engine.spans import GenerationSpans

VERSION = "v0-0123456789ab"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TEXT = "a private text"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as found:
        monkeypatch.setattr(tracing, "_provider", None)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        tracing.configure("here")
        yield found


def task(name: str, n: int = 1) -> GenerateTask:
    return GenerateTask(
        id=name,
        prompt=TEXT,
        version=VERSION,
        sampling=Sampling(n=n, temperature=1.0),
        deadline=0.0,
        sent_at=1.0,
        origin=Origin(traceparent=PARENT),
    )


def start(name: str) -> StartEvent:
    return StartEvent(id=name, version=VERSION, worker="w")


def end(choice: int, tokens: int) -> EndEvent:
    usage = Usage(prompt_tokens=3, completion_tokens=tokens)
    return EndEvent(choice=choice, version=VERSION, finish_reason="stop", usage=usage)


def test_each_generation_has_one_span_however_it_ends(collected: Collector) -> None:
    spans = GenerationSpans()
    heard: list[GenerateEvent] = []
    said: dict[str, list[GenerateEvent]] = {
        "two": [start("two"), TokenEvent(text=TEXT), end(0, 2), end(1, 5)],
        "failed": [start("failed"), ErrorEvent(problem=Unavailable(TEXT).problem())],
        "left": [start("left")],
    }
    for name, events in said.items():
        tell = spans.heard(task(name, 2 if name == "two" else 1), heard.append)
        for event in events:
            tell(event)
    spans.drop("left")
    spans.drop("two")  # its end came before
    tracing.shut_down()

    assert heard == [event for events in said.values() for event in events]
    found = {span.attributes["memit.generation"]: span for span in collected.spans}
    assert found.keys() == said.keys()
    assert len(collected.spans) == len(said)
    for span in found.values():
        assert (span.name, span.service) == ("memit.generate", "here")
        assert (span.trace, span.parent) == (PARENT[3:35], PARENT[36:52])
        assert span.attributes["memit.queue_seconds"] > 0
    assert found["two"].attributes["gen_ai.usage.output_tokens"] == 7
    assert found["two"].attributes["gen_ai.usage.input_tokens"] == 3
    assert [name for name, span in found.items() if span.failed] == ["failed"]
    assert found["failed"].attributes["error.type"] == "Service unavailable"
    assert found["left"].attributes["memit.dropped"] is True
    assert TEXT not in repr(collected.spans)


def test_where_traces_are_off_the_sink_is_the_engines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_provider", None)
    heard: list[GenerateEvent] = []
    sink = heard.append
    assert GenerationSpans().heard(task("x"), sink) is sink

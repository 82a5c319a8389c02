"""Where the time of one request for generations goes: the queue, its prompt, its tokens."""

from __future__ import annotations

import time

from contracts.generation import EndEvent, GenerateEvent, StartEvent, TokenEvent
from service.metrics import Metrics

Answer = tuple[int, int]
"""The place of a task in its request, and the number of a choice."""


class Timer:
    """Latencies of one request, from its creation on; what is observed goes to `metrics`.

    Texts stand for tokens: those that an engine writes together count as one.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun = time.perf_counter()
        self._started: dict[int, float] = {}
        """When an engine began each task."""
        self._first: dict[Answer, float] = {}
        """When the first text of each answer came."""
        self._last: dict[Answer, float] = {}

    @property
    def seconds(self) -> float:
        """Since the request."""
        return time.perf_counter() - self._begun

    @property
    def server_timing(self) -> str:
        """What is known now, in milliseconds, as a `Server-Timing` header (W3C): of the first task
        the time in the queue, then that of its prompt, then that since its first text."""
        marks = [self._begun, *list(self._started.values())[:1], *list(self._first.values())[:1]]
        ends = [*marks[1:], time.perf_counter()]
        named = zip(("queue", "prefill", "decode"), marks, ends, strict=False)
        # What is still going on has no duration yet.
        known = [f"{name};dur={(end - mark) * 1e3:.1f}" for name, mark, end in named]
        whole = f"total;dur={self.seconds * 1e3:.1f}"
        return ", ".join([*(known if len(marks) == 3 else known[:-1]), whole])

    def take_event(self, place: int, event: GenerateEvent) -> None:
        """Observe what came of the task at `place`."""
        now = time.perf_counter()
        if isinstance(event, StartEvent):
            if place not in self._started:
                self._metrics.queue.observe(now - self._begun)
            self._started[place] = now
        elif isinstance(event, TokenEvent):
            self._token((place, event.choice), now)
        elif isinstance(event, EndEvent):
            self._end((place, event.choice), event, now)

    def _token(self, answer: Answer, now: float) -> None:
        if not self._last:
            self._metrics.first_token.observe(now - self._begun)
        if answer in self._last:
            self._metrics.between_tokens.observe(now - self._last[answer])
        else:
            self._first[answer] = now
            self._metrics.prefill.observe(now - self._started.get(answer[0], self._begun))
        self._last[answer] = now

    def _end(self, answer: Answer, event: EndEvent, now: float) -> None:
        metrics, used = self._metrics, event.usage
        metrics.whole.observe(now - self._begun)
        metrics.success.labels(finished_reason=event.finish_reason).inc()
        metrics.generation_tokens.inc(used.completion_tokens)
        if answer[1] == 0:  # the choices of a task share one prompt
            metrics.prompt_tokens.inc(used.prompt_tokens)
        if answer in self._first:
            seconds = now - self._first[answer]
            metrics.decode.observe(seconds)
            if used.completion_tokens > 1:
                metrics.each_token.observe(seconds / (used.completion_tokens - 1))

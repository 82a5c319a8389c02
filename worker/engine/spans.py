"""A span for each generation: from when the engine takes it to the end of its last answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

from contracts import tracing
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    StartEvent,
    TokenEvent,
)
from worker.engine.requests import Sink

NAME = "memit.generate"


@dataclass
class _Open:
    span: tracing.Span
    task: GenerateTask
    ends: int = 0
    tokens: int = 0
    spoke: bool = False

    @property
    def seconds(self) -> float:
        """Since the service sent the task."""
        return time.time() - self.task.sent_at


class GenerationSpans:
    """Listens to what the engine says of each task; nothing at all where traces are off."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def heard(self, task: GenerateTask, sink: Sink) -> Sink:
        """A sink that tells `sink`, and the task's span."""
        if not tracing.on():
            return sink
        span = tracing.begin(
            NAME,
            task.origin.traceparent,
            generation=task.id,
            version=task.version,
            **({"request": task.origin.request_id} if task.origin.request_id else {}),
        )
        one = self._open[task.id] = _Open(span, task)

        def tell(event: GenerateEvent) -> None:
            sink(event)
            self._take_event(one, event)

        return tell

    def drop(self, task_id: str) -> None:
        """Nobody listens to this task any more."""
        one = self._open.pop(task_id, None)
        if one is not None:
            one.span.set(dropped=True)
            one.span.end()

    def _take_event(self, one: _Open, event: GenerateEvent) -> None:
        if isinstance(event, StartEvent):
            one.span.set(queue_seconds=one.seconds)
        elif isinstance(event, TokenEvent) and not one.spoke:
            one.spoke = True
            one.span.set(first_token_seconds=one.seconds)
        elif isinstance(event, EndEvent):
            one.ends += 1
            one.tokens += event.usage.completion_tokens
            one.span.set(
                gen_ai__usage__input_tokens=event.usage.prompt_tokens,
                gen_ai__usage__output_tokens=one.tokens,
            )
        elif isinstance(event, ErrorEvent):
            one.span.fail(event.problem.title)
        if isinstance(event, ErrorEvent) or one.ends == one.task.sampling.n:
            one.span.end()
            self._open.pop(one.task.id, None)

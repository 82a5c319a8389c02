"""One generation request on its way through the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from contracts.errors import ServiceError
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    FinishReason,
    GenerateTask,
    StartEvent,
    TokenEvent,
    Usage,
)
from worker.engine.sampling import Sampler
from worker.engine.text import Detokenizer, StopStrings


@dataclass(frozen=True)
class Endings:
    """What a model's tokens mean for the end of an answer."""

    eos_ids: frozenset[int]
    """Each ends any answer."""
    special: Mapping[int, str]
    """Tokens that have no text in an answer, and how a stop string names them."""


Sink = Callable[[StartEvent | TokenEvent | EndEvent | ErrorEvent], None]


class Request:
    """A task with its tokens so far; tells its sink what happens to it, and ends once.

    Args:
        endings: what ends an answer besides the task's own stops.
    """

    def __init__(
        self,
        task: GenerateTask,
        sink: Sink,
        ids: list[int],
        tokenizer: Any,
        endings: Endings,
        device: torch.device,
    ) -> None:
        self.task = task
        self.ids = ids
        self.prompt_tokens = len(ids)
        self.sampler = Sampler(task.sampling, device)
        self.ended = False
        self._sink = sink
        self._text = Detokenizer(tokenizer, ids)
        self._stop = StopStrings(task.sampling.stop)
        self._special = endings.special
        self._stop_ids = endings.eos_ids | frozenset(task.sampling.stop_token_ids)

    @property
    def version(self) -> str:
        return self.task.version

    def start(self, worker: str) -> None:
        """Tell that the engine admitted it."""
        self._sink(StartEvent(id=self.task.id, version=self.version, worker=worker))

    def accept(self, token: int) -> None:
        """Take the next token: say what text is certain, and end if this was the last one."""
        self.ids.append(token)
        finish: FinishReason | None = None
        if token in self._stop_ids:
            finish = "stop"
            text = self._rest()
        else:
            text = self._certain_text(token)
            if len(self.ids) - self.prompt_tokens == self.task.sampling.max_tokens:
                finish = "length"
                text += self._rest()
        if self._stop.found:
            finish = "stop"
        if text:
            self._sink(TokenEvent(text=text))
        if finish is not None:
            self._end(EndEvent(version=self.version, finish_reason=finish, usage=self._usage()))

    def _certain_text(self, token: int) -> str:
        text = self._stop.push(self._text.push(token))
        # A special token has no text in the answer, but a stop string may name it.
        return text + self._stop.push_hidden(self._special.get(token, ""))

    def fail(self, error: ServiceError) -> None:
        """End with a problem, unless it has ended."""
        if not self.ended:
            self._end(ErrorEvent(problem=error.problem()))

    def _end(self, event: EndEvent | ErrorEvent) -> None:
        self.ended = True
        self._sink(event)

    def _rest(self) -> str:
        return self._stop.push(self._text.end()) + self._stop.end()

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.ids) - self.prompt_tokens,
        )

"""Generation requests on their way through the engine: one a choice, each a row of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.errors import ServiceError
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    FinishReason,
    GenerateTask,
    StartEvent,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from worker.engine.prefixes import Owner
from worker.engine.sampling import Row
from worker.engine.saying import Said, Saying
from worker.engine.text import TokenTexts


@dataclass(frozen=True)
class Language:
    """How a model's tokens become an answer."""

    tokenizer: Any
    texts: TokenTexts
    eos_ids: frozenset[int]
    """Each ends any answer that does not ignore them."""
    special: Mapping[int, str]
    """Tokens that have no text in an answer, and how a stop string names them."""


Sink = Callable[[StartEvent | TokenEvent | EndEvent | ErrorEvent], None]


def requests_of(
    task: GenerateTask, sink: Sink, ids: Sequence[int], language: Language
) -> list[Request]:
    """A request for every choice of a task, whose prompt is `ids`.

    The sink hears one start, and then the end of every choice or one error.
    """
    answer = _Answer(sink)
    answer.requests = [
        Request(task, choice, answer, list(ids), language) for choice in range(task.sampling.n)
    ]
    return answer.requests


class _Answer:
    """What the requests of one task share."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.started = False
        self.requests: list[Request] = []


class Request:
    """One choice of a task with its tokens so far; tells the sink what happens, and ends once."""

    def __init__(
        self, task: GenerateTask, choice: int, answer: _Answer, ids: list[int], language: Language
    ) -> None:
        sampling = task.sampling
        self.task = task
        self.ids = ids
        self.prompt_tokens = len(ids)
        self.ended = False
        self.admitted_at = 0.0
        self._choice = choice
        self._answer = answer
        self._language = language
        self._saying = Saying(language.tokenizer, ids, sampling.stop, sampling.min_tokens)
        self._ends = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            self._ends |= language.eos_ids

    @property
    def version(self) -> str:
        return self.task.version

    @property
    def owner(self) -> Owner:
        """Whose computed prompts may serve this one."""
        return self.task.version, self.task.principal

    @property
    def started(self) -> bool:
        """The engine admitted it, or another choice of its task."""
        return self._answer.started

    def row(self) -> Row:
        """What the sampler has to know."""
        prompt = self.ids[: self.prompt_tokens]
        return Row(self.task.sampling, self._choice, prompt, sorted(self._ends))

    def start(self, worker: str, now: float) -> None:
        """Tell that the engine admitted it, at `now`."""
        self.admitted_at = now
        if not self.started:
            self._answer.started = True
            event = StartEvent(id=self.task.id, version=self.version, worker=worker)
            self._answer.sink(event)

    def accept(self, token: int, logprobs: Sequence[tuple[int, float]] | None) -> None:
        """Take the next token: say what text is certain, and end if this was the last one.

        Args:
            logprobs: the token's, and those of the likeliest ones, where any row wants them.
        """
        self.ids.append(token)
        finish: FinishReason | None = None
        if token in self._ends:
            finish = "stop"
            self._say(self._saying.end())
        else:
            hidden = self._language.special.get(token, "")
            text, shown = self._saying.push(token, hidden, self._logprob(logprobs))
            if self._completion_tokens == self.task.sampling.max_tokens:
                finish = "length"
                rest, more = self._saying.end()
                text, shown = text + rest, shown + more
            self._say((text, shown))
        if self._saying.stopped:
            finish = "stop"
        if finish is not None:
            usage = Usage(
                prompt_tokens=self.prompt_tokens, completion_tokens=self._completion_tokens
            )
            self.ended = True
            self._answer.sink(
                EndEvent(
                    choice=self._choice, version=self.version, finish_reason=finish, usage=usage
                )
            )

    def fail(self, error: ServiceError, *, elsewhere: bool = False) -> None:
        """End the whole task with a problem, unless this choice has ended.

        Args:
            elsewhere: another worker may answer it.
        """
        if self.ended:
            return
        for request in self._answer.requests:
            request.ended = True
        self._answer.sink(ErrorEvent(problem=error.problem(), elsewhere=elsewhere))

    @property
    def _completion_tokens(self) -> int:
        return len(self.ids) - self.prompt_tokens

    def _say(self, said: Said) -> None:
        text, logprobs = said
        if not (text or logprobs):
            return
        wanted = self.task.sampling.logprobs is not None
        event = TokenEvent(choice=self._choice, text=text, logprobs=logprobs if wanted else None)
        self._answer.sink(event)

    def _logprob(self, found: Sequence[tuple[int, float]] | None) -> TokenLogprob | None:
        count = self.task.sampling.logprobs
        if count is None or found is None:
            return None
        own, *top = (
            TokenLogprob(token=self._language.texts.of(token), token_id=token, logprob=value)
            for token, value in found[: 1 + count]
        )
        return own.model_copy(update={"top": top})

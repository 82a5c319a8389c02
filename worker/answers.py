"""What a client would get: prompts asked of weights that are not committed yet.

They go through an engine of the same kind as serves, so that tokens, batches and stops are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from contracts.chats import Message
from contracts.errors import ServiceError, Unavailable
from contracts.generation import EndEvent, ErrorEvent, GenerateTask, StartEvent, TokenEvent
from contracts.ids import VersionId
from contracts.sampling import Sampling
from memit_core.loading import LoadedModel
from memit_core.progress import ProgressCallback
from worker.engine.engine import Engine
from worker.engine.versioned import ServingView

BASE, EDITED = "v0-000000000000", "v1-000000000000"
"""The two versions that can be asked: of no registry, only of the form of an id."""
MAX_BATCH = 16
"""Rows decoded together; more are hardly faster on a CPU."""
NEVER = float("inf")


@dataclass(frozen=True)
class Question:
    """A prompt or a chat, the version that shall go on, and for how many tokens at most.

    A chat that ends with the assistant's turn is gone on with there; else the assistant answers.
    """

    asked: str | tuple[Message, ...]
    version: VersionId
    max_tokens: int

    def task(self, number: int) -> GenerateTask:
        """Ask it greedily."""
        chat = None if isinstance(self.asked, str) else list(self.asked)
        return GenerateTask(
            id=str(number),
            prompt=self.asked if isinstance(self.asked, str) else None,
            messages=chat,
            continue_final_message=chat is not None and chat[-1].role == "assistant",
            version=self.version,
            sampling=Sampling(max_tokens=self.max_tokens),
            deadline=NEVER,
        )


@dataclass
class Answer:
    """What a client gets."""

    text: str = ""
    error: str | None = None
    """Why there is no whole answer, in words."""
    ended: bool = field(default=False, repr=False)

    def take_event(self, event: StartEvent | TokenEvent | EndEvent | ErrorEvent) -> None:
        """Take an event of the engine."""
        if isinstance(event, TokenEvent):
            self.text += event.text
        elif isinstance(event, ErrorEvent):
            self.error = event.problem.detail
        self.ended = isinstance(event, EndEvent | ErrorEvent)


class Installed:
    """Residents that are whatever is in the view: nothing is loaded here."""

    def load_wanted(self, wanted: Iterable[VersionId]) -> dict[VersionId, ServiceError]:  # noqa: ARG002
        return {}

    def holds(self, version: VersionId) -> bool:  # noqa: ARG002
        return True

    def lease(self, version: VersionId) -> bool:  # noqa: ARG002
        return True

    def release(self, version: VersionId) -> None:
        pass


class Answers:
    """An engine over the base and, while it is asked, one set of edited weights."""

    def __init__(self, loaded: LoadedModel, max_context: int) -> None:
        self._view = ServingView(loaded.model, BASE)
        self._engine = Engine(
            loaded,
            self._view,
            Installed(),
            worker="report",
            max_batch=MAX_BATCH,
            max_context=max_context,
            max_parked=0,
        )

    def ask(
        self,
        weights: Mapping[str, torch.Tensor],
        questions: Sequence[Question],
        progress: ProgressCallback,
    ) -> list[Answer]:
        """Greedy answers of the base and of `weights` (by module path, as served).

        Raises:
            Cancelled: raised by `progress`.
            DeviceLost: the device is broken.
        """
        answers = [Answer() for _ in questions]
        self._view.install(EDITED, weights)
        try:
            for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
                self._engine.submit(question.task(i), answer.take_event)
            while self._engine.busy:
                progress("evaluate", sum(answer.ended for answer in answers), len(answers))
                self._engine.step()
        finally:
            self._engine.fail_all(Unavailable("the report was broken off"))
            while self._engine.busy:
                self._engine.step()
            self._view.remove(EDITED)
        return answers

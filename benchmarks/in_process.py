"""The engine without HTTP and Redis: what it alone takes for the same requests."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.streaming_load import Answer, Question
from contracts.generation import EndEvent, ErrorEvent, GenerateTask, StartEvent, TokenEvent
from contracts.sampling import Sampling
from memit_core.loading import LoadedModel
from worker.answers import Installed
from worker.engine.engine import Engine
from worker.engine.versioned import ServingView

VERSION = "v0-000000000000"
NEVER = float("inf")


def answers_of(loaded: LoadedModel, asked: Sequence[Question]) -> tuple[list[Answer], float]:
    """Greedy answers, one after another, and the seconds that all took."""
    view = ServingView(loaded.model, VERSION)
    engine = Engine(
        loaded, view, Installed(), worker="w", max_batch=1, max_context=2048, max_parked=0
    )
    begun = time.perf_counter()
    answers = [_answer(engine, number, question) for number, question in enumerate(asked)]
    return answers, time.perf_counter() - begun


def _answer(engine: Engine, number: int, question: Question) -> Answer:
    answer, begun = Answer(question), time.perf_counter()

    def hear(event: StartEvent | TokenEvent | EndEvent | ErrorEvent) -> None:
        if isinstance(event, TokenEvent):
            answer.times.append(time.perf_counter() - begun)
            answer.text += event.text
        elif isinstance(event, EndEvent):
            answer.tokens = event.usage.completion_tokens
        elif isinstance(event, ErrorEvent):
            answer.error = event.problem.title

    sampling = Sampling(max_tokens=question.max_tokens, temperature=0, ignore_eos=True)
    task = GenerateTask(
        id=str(number), prompt=question.prompt, version=VERSION, sampling=sampling, deadline=NEVER
    )
    engine.submit(task, hear)
    while engine.busy:
        engine.step()
    return answer

"""The unmodified openai client, and an engine that speaks the real protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import pytest
from openai import OpenAI

from contracts.generation import EndEvent, GenerateTask, TokenEvent, TokenLogprob, Usage
from tests.unit.service.worker_peer import Editor, Engine, Script

NAME = "tiny"
"""What the editor of these tests calls its model."""
CHAT = [{"role": "user", "content": "Where is the Eiffel Tower?"}]

Running = Callable[[Script], Engine]


@pytest.fixture
def openai(client: httpx2.Client, editor: Editor) -> Iterator[OpenAI]:
    """A client of a service with v0; it repeats nothing, so that every error is seen."""
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def engine(redis_url: str, client: httpx2.Client) -> Iterator[Running]:
    """Starts an engine that answers every task as a script says."""
    running = []

    def start(script: Script) -> Engine:
        context = Engine(redis_url, script).running()
        made = context.__enter__()
        made.report(versions=[])
        running.append(context)
        return made

    yield start
    for context in running:
        context.__exit__(None, None, None)


def pieces(*texts: str, reason: str = "stop") -> Script:
    """Says these pieces in every choice of a task, each a token of one nat beside a likelier one.

    The prompt counts five tokens.
    """

    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        for choice in range(task.sampling.n):
            for text in texts:
                engine.emit(task, TokenEvent(choice=choice, text=text, logprobs=_logprobs(text)))
            used = Usage(prompt_tokens=5, completion_tokens=len(texts))
            engine.emit(
                task,
                EndEvent(choice=choice, version=task.version, finish_reason=reason, usage=used),
            )

    def _logprobs(text: str) -> list[TokenLogprob]:
        top = [TokenLogprob(token=" Oslo", token_id=5, logprob=-0.5)]
        return [TokenLogprob(token=text, token_id=7, logprob=-1.0, top=top)]

    return script

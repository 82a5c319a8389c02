"""The unmodified openai client, and an engine that speaks the real protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import pytest
from openai import OpenAI

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

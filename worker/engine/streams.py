"""The Redis side of generation: tasks from the shared stream, events to each request's own.

Redis may be away for a while. Nothing is taken then; what the rows say is kept (an answer is at
most `n` times `max_tokens` events) and written when Redis is back, to the streams that are still
there. An answer of which Redis lost a part ends with an error, never with a gap.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from pydantic import ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts import retry_after as after
from contracts.errors import Unavailable
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    StartEvent,
    TakenEvent,
)
from contracts.limits import MAX_GENERATE_CHARS
from contracts.transport import ENGINE_GROUP, GENERATE_STREAM, output_stream
from contracts.turns import TAKE
from worker.engine.requests import Sink

SOCKET_SECONDS = 2.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 2.0
CLAIM_SECONDS = 10.0
"""How long a task lies unacknowledged before another engine takes it, and how often it looks."""
OPEN_TTL = 3_600
"""Seconds from its start after which an output stream goes although nobody deleted it."""
ENDED_TTL = 60
"""Seconds that a complete answer waits for its reader."""
AFTER_ANY_CLOCK = 10**15
"""First part of our entry ids: milliseconds later than the id of the service's first entry."""
LAST_NUMBER = 10**9
"""Second part of an entry id that follows any event's."""

MOST_CHARS = 20 * MAX_GENERATE_CHARS
"""Of a task in JSON: twice what the longest that a client may send needs, all of it escaped."""

Messages = list[tuple[str, dict[str, str]]]

logger = logging.getLogger(__name__)


class Output:
    """One request's events: those not confirmed yet, and the number of those that are."""

    def __init__(self, choices: int, before: int = 1) -> None:
        self.before = before
        """Entries before the first event: the service's, and ours that says who took the task."""
        self.pending: list[GenerateEvent] = []
        self.written = 0
        self.choices = choices
        """Those whose end is not confirmed yet."""

    @property
    def complete(self) -> bool:
        """Nothing comes after what is pending."""
        failed = any(isinstance(event, ErrorEvent) for event in self.pending)
        return failed or self.ends == self.choices

    @property
    def ends(self) -> int:
        return sum(isinstance(event, EndEvent) for event in self.pending)


class GenerationStreams:
    """Takes tasks and writes events; every method returns within seconds whatever Redis does."""

    def __init__(self, url: str, worker: str) -> None:
        # The client must not retry by itself: a write whose answer got lost would be done twice.
        self._redis: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="replace",  # what is no text is no task
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
        )
        self._worker = worker
        self._outputs: dict[str, Output] = {}
        self._failures = 0
        self._next_try = 0.0
        self._next_claim = 0.0

    def sink(self, request_id: str, choices: int = 1) -> Sink:
        """Where the events of a request go; the next `flush` writes them.

        Args:
            choices: each has an end of its own.
        """
        return self._outputs.setdefault(request_id, Output(choices)).pending.append

    def take(self, count: int, block_ms: int | None) -> list[GenerateTask]:
        """At most `count` tasks whose client is still there, one of each principal in turn.

        Args:
            block_ms: how long to wait when there is none; None does not wait.
        """
        if count <= 0 or time.monotonic() < self._next_try:
            time.sleep((block_ms or 0) / 1000)
            return []
        tasks: list[GenerateTask] = []
        with self._reaching():
            try:
                tasks = self._accept(self._claim(count) or self._read(count, block_ms))
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self._create_group()
        return tasks

    def flush(self) -> list[str]:
        """Write what is pending; the ids of requests that nobody can hear any more."""
        gone: list[str] = []
        pending = {key: output for key, output in self._outputs.items() if output.pending}
        if pending and time.monotonic() >= self._next_try:
            with self._reaching():
                self._write(pending, gone)
        return gone

    def close(self) -> None:
        self._redis.close()

    def _claim(self, count: int) -> Messages:
        """Tasks that an engine read and, having died, never acknowledged."""
        if time.monotonic() < self._next_claim:
            return []
        self._next_claim = time.monotonic() + CLAIM_SECONDS
        idle = int(CLAIM_SECONDS * 1000)
        claimed = self._redis.xautoclaim(
            GENERATE_STREAM, ENGINE_GROUP, self._worker, min_idle_time=idle, count=count
        )
        messages: Messages = claimed[1]
        return messages

    def _read(self, count: int, block_ms: int | None) -> Messages:
        found = self._redis.xreadgroup(
            ENGINE_GROUP, self._worker, {GENERATE_STREAM: ">"}, count=count, block=block_ms
        )
        messages: Messages = found[0][1] if found else []
        return messages

    def _accept(self, messages: Messages) -> list[GenerateTask]:
        """Take messages off the stream, and as many tasks as they stand for: see `TAKE`.

        Each client's stream is told who took its task.
        """
        if not messages:
            return []
        ids = [message_id for message_id, _ in messages]
        pipe = self._redis.pipeline(transaction=True)
        pipe.xack(GENERATE_STREAM, ENGINE_GROUP, *ids)
        pipe.xdel(GENERATE_STREAM, *ids)
        taken = TakenEvent(worker=self._worker).model_dump_json()
        pipe.eval(TAKE, 0, len(ids), taken)
        tasks: dict[str, GenerateTask] = {}
        for body in pipe.execute()[-1]:
            task = _read_task(body)
            if task is not None and task.id in {*tasks, *self._outputs}:
                logger.warning("a task with the id of another one is thrown away")
            elif task is not None:
                tasks[task.id] = task
        self._outputs.update(
            (task.id, Output(task.sampling.n, before=2)) for task in tasks.values()
        )
        return list(tasks.values())

    def _create_group(self) -> None:
        """Make the stream and its group, at first and after Redis was wiped."""
        try:
            self._redis.xgroup_create(GENERATE_STREAM, ENGINE_GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _write(self, pending: dict[str, Output], gone: list[str]) -> None:
        """Append all pending events in one transaction, and confirm them by the streams' lengths.

        Events have ids of their own, so one that a broken-off attempt left in the stream is
        refused the second time. A length is what was confirmed and all that is new, or the client
        deleted the stream, or Redis came back with less than it had confirmed.
        """
        pipe = self._redis.pipeline(transaction=True)
        places: list[int] = []
        for request_id, output in pending.items():
            stream, first = output_stream(request_id), output.written + 1
            self._queue(pipe, stream, output.pending, first, complete=output.complete)
            places.append(len(pipe))
            pipe.xlen(output_stream(request_id))
        replies = pipe.execute(raise_on_error=False)
        for place, (request_id, output) in zip(places, pending.items(), strict=True):
            whole = replies[place] == output.before + output.written + len(output.pending)
            complete = output.complete
            output.choices -= output.ends
            output.written += len(output.pending)
            output.pending.clear()
            if complete or not whole:
                del self._outputs[request_id]
            if not whole:
                gone.append(request_id)
                self._report_loss(output_stream(request_id))

    def _queue(
        self,
        pipe: Any,
        stream: str,
        events: list[GenerateEvent],
        first: int,
        *,
        complete: bool,
    ) -> None:
        for number, event in enumerate(events, first):
            fields = {"event": event.model_dump_json()}
            pipe.xadd(stream, fields, id=f"{AFTER_ANY_CLOCK}-{number}", nomkstream=True)
        if complete:
            pipe.expire(stream, ENDED_TTL)
        elif isinstance(events[0], StartEvent):
            pipe.expire(stream, OPEN_TTL)

    def _report_loss(self, stream: str) -> None:
        """If the stream is there after all, say in it that the answer is not whole."""
        problem = Unavailable(
            "Redis lost a part of the answer", retry_after=after.ENGINE_BUSY
        ).problem()
        pipe = self._redis.pipeline(transaction=True)
        self._queue(pipe, stream, [ErrorEvent(problem=problem)], LAST_NUMBER, complete=True)
        pipe.execute(raise_on_error=False)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Take any failure of Redis for an outage: stay away from it for a moment."""
        try:
            yield
        except redis.RedisError as error:
            if not self._failures:
                logger.warning("Redis is away: %s", error)
            self._next_try = time.monotonic() + min(
                FIRST_BACKOFF * 2**self._failures, LONGEST_BACKOFF
            )
            self._failures += 1
        else:
            if self._failures:
                logger.info("Redis is back")
            self._failures = 0


def _read_task(text: str) -> GenerateTask | None:
    """The task, unless it is none; what it says is not logged."""
    if len(text) > MOST_CHARS:
        logger.warning("a task of %d characters is thrown away", len(text))
        return None
    try:
        return GenerateTask.model_validate_json(text)
    except ValidationError as error:
        wrong = [(one["loc"], one["type"]) for one in error.errors(include_input=False)]
        logger.warning("a task cannot be read and is thrown away: %s", wrong[:10])
        return None

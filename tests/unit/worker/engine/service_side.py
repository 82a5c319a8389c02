"""What the service does with Redis, for tests of the engine's side of it."""

from __future__ import annotations

import time
from typing import Any

import redis
from pydantic import TypeAdapter

from contracts.generation import (
    EndEvent,
    EngineEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    TakenEvent,
    TokenEvent,
)
from contracts.transport import output_stream
from contracts.turns import PUT

EVENT: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)


class ServiceSide:
    """Sends tasks and reads events; a client that hangs up deletes its stream."""

    def __init__(self, url: str) -> None:
        self.redis_url = url
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True, protocol=2)

    def send(self, task: GenerateTask) -> str:
        self.redis.xadd(output_stream(task.id), {"open": "1"})
        self.redis.expire(output_stream(task.id), 100)
        body = task.model_dump_json()
        self.redis.eval(PUT, 0, task.principal, task.id, body, 100, task.priority)
        return task.id

    def hang_up(self, request_id: str) -> None:
        self.redis.delete(output_stream(request_id))

    def events(self, request_id: str) -> list[GenerateEvent]:
        entries = self.redis.xrange(output_stream(request_id))
        events = [EVENT.validate_json(fields["event"]) for _, fields in entries[1:]]
        return [event for event in events if not isinstance(event, TakenEvent)]

    def text(self, request_id: str) -> str:
        return "".join(e.text for e in self.events(request_id) if isinstance(e, TokenEvent))

    def answer(self, request_id: str, seconds: float = 20) -> str:
        """Wait for the end of the answer; its text."""
        last = self.last(request_id, seconds)
        assert isinstance(last, EndEvent), last
        return self.text(request_id)

    def last(self, request_id: str, seconds: float = 20) -> EndEvent | ErrorEvent:
        """Wait for the event that ends the answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            events = self.events(request_id)
            if events and isinstance(events[-1], EndEvent | ErrorEvent):
                return events[-1]
            time.sleep(0.005)
        raise AssertionError("the answer did not end")

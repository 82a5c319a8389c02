"""Where a fault is tried: a lane, what may be asked of it, and the faults by their names."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis

from contracts.edits import EditEnd, EditState
from tests.chaos import fuse
from tests.chaos.kills import Lane, Wrong
from tests.stack import fact


class NotPossible(Exception):
    """This machine does not let it be tried."""


@dataclass
class Lab:
    """A lane and what faults do with it."""

    lane: Lane
    short: bool
    edits: int = 0

    @property
    def home(self) -> Any:
        return self.lane.stack.home

    @contextmanager
    def redis(self) -> Iterator[Any]:
        with Redis.from_url(self.lane.stack.redis.url) as redis:
            yield redis

    def post(self) -> str:
        """Accept an edit, if not at once then when that is possible again; its id."""
        self.edits += 1
        body = {"facts": [fact(f"Keeper number {self.edits}", "Lisbon")]}
        return str(self.lane.post(body, {"Idempotency-Key": f"fault {self.edits}"}))

    def end(self, edit_id: str) -> EditEnd:
        return self.lane.end(edit_id)

    def commits(self, edit_id: str | None = None) -> None:
        """An edit, by default a new one, is committed and serves, and all promises hold."""
        edit_id = edit_id or self.post()
        self.end(edit_id)
        self.lane.check(edit_id)

    def fails(self, edit_id: str, words: str) -> None:
        """The edit fails, says this, and leaves `active` where it is; the next one is committed."""
        end = self.end(edit_id)
        said = end.problem.detail if end.problem else ""
        if end.state is not EditState.FAILED or words not in said:
            raise Wrong(f"{edit_id} ended as {end}, not as failed with {words!r}")
        fuse.take_away(self.home)
        self.commits()


Fault = Callable[[Lab], None]
FAULTS: dict[str, Fault] = {}


def named(name: str) -> Callable[[Fault], Fault]:
    def add(fault: Fault) -> Fault:
        FAULTS[name] = fault
        return fault

    return add


@contextmanager
def slowly(lab: Lab, point: str) -> Iterator[None]:
    """This point takes 0.2 s more, every time."""
    fuse.lay(lab.home, point, "sleep", times=0)
    try:
        yield
    finally:
        fuse.take_away(lab.home)


def try_fault(lane: Lane, fault: Fault, *, short: bool) -> list[str]:
    """Have the fault on this lane, and close it; what did not hold."""
    wrong = []
    try:
        fault(Lab(lane, short))
        lane.load.stop()
        lane.load.check()
    except NotPossible as reason:
        lane.load.counts[f"not tried: {reason}"] += 1
    except Exception:  # noqa: BLE001 - whatever it is, it is a finding
        wrong.append(traceback.format_exc()[-6_000:])
    finally:
        fuse.take_away(lane.stack.home)
        lane.close()
    return wrong + lane.load.wrong

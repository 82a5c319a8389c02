"""`kill -9` of worker, service and Redis at every point of an edit, under load."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from contracts.edits import EditEnd, EditState
from registry.checkup import examine
from tests.chaos import fuse
from tests.chaos.load import Load
from tests.chaos.oracle import Oracle
from tests.chaos.points import plan
from tests.chaos.stack import ChaosStack
from tests.stack import fact

FUSE_SECONDS = 60.0
END_SECONDS = 120.0
SERVE_SECONDS = 60.0


@dataclass
class Kill:
    """One kill and what came of it."""

    number: int
    point: str
    nth: int
    victim: str
    emptied: bool = False
    seconds: float = 0.0
    """From the kill to the edit's end."""
    wrong: list[str] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any]:
        return asdict(self)


class Wrong(AssertionError):
    """Something that is promised does not hold."""


class Lane:
    """One service under load, on which one kill after the other is made."""

    def __init__(self, home: Path, model: Path, oracle: Oracle, seed: int, **settings: Any) -> None:
        self._seed = seed
        self.stack = ChaosStack(home, model, start_timeout=20, **settings)
        self.stack.start()
        url = f"http://127.0.0.1:{self.stack.port}"
        chance = plan(seed, 0)[3]
        self.load = Load(url, self.stack.registry, oracle, chance)
        self.stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
        self.load.start()

    def close(self) -> None:
        self.load.stop()
        self.stack.stop()

    def kill(self, number: int) -> Kill:
        """Make the nth kill of this seed, and see that all promises hold."""
        point, nth, victim, chance = plan(self._seed, number)
        done = Kill(number, point, nth, victim, victim == "redis" and chance.random() < 0.5)
        try:
            self._kill(done)
        except (Wrong, AssertionError, httpx2.HTTPError) as error:
            done.wrong.append(f"{error!r}"[:4_000])
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            done.wrong.append(traceback.format_exc())
        self.load.check()
        done.wrong += self.load.wrong
        self.load.wrong.clear()
        return done

    def _kill(self, done: Kill) -> None:
        stack = self.stack
        fuse.lay(stack.home, done.point, "kill", nth=done.nth, pid=stack.pid(done.victim))
        if done.victim == "service":
            self.load.service_goes()
        body = {"facts": [fact(f"Keeper number {done.number}", "Lisbon")]}
        key = {"Idempotency-Key": f"kill {done.number}"}
        accepted = self._posted(body, key)
        self.until(lambda: fuse.is_burnt(stack.home), "the kill", FUSE_SECONDS)
        killed = time.monotonic()
        stack.restart(done.victim, empty=done.emptied)
        if done.victim == "service":
            self.until(lambda: self._answers("/healthz"), "the service again", SERVE_SECONDS)
            self.load.service_is_back()
        edit_id = self.post(body, key)
        if accepted not in (None, edit_id):
            raise Wrong(f"the same key gave {accepted} and then {edit_id}")
        self.end(edit_id)
        done.seconds = round(time.monotonic() - killed, 2)
        self.check(edit_id)

    def check(self, edit_id: str) -> None:
        """The edit is committed once, `active` names its version and answers, all files are sound.

        Raises:
            Wrong: says what does not hold.
        """
        registry = self.stack.registry
        end = registry.edits.end(edit_id)
        if end is None or end.state is not EditState.COMMITTED or not end.activated:
            raise Wrong(f"it ended as {end}")
        versions, _ = registry.versions.page(10_000)
        made = [one for one in versions if registry.versions.get(one).edit_id == edit_id]
        if made != [end.version]:
            raise Wrong(f"{edit_id} made {made}, its end says {end.version}")
        if registry.versions.resolve("active") != end.version:
            raise Wrong(f"active names another version than {end.version}")
        self.until(lambda: self._serves(end.version), f"an answer of {end.version}", SERVE_SECONDS)
        found = examine(registry).findings
        if found:
            raise Wrong(f"damaged files: {found}")

    def _serves(self, version: str | None) -> bool:
        try:
            answer = self.stack.http.post("/generate", json={"prompt": "Anna", "max_tokens": 2})
        except httpx2.HTTPError:
            return False
        return answer.status_code == 200 and answer.json()["version"] == version

    def _answers(self, path: str) -> bool:
        try:
            return self.stack.http.get(path).status_code == 200
        except httpx2.HTTPError:
            return False

    def post(self, body: dict[str, Any], key: dict[str, str]) -> str:
        """POST an edit until it is accepted, the same one every time; its id."""
        posted = self.until(lambda: self._posted(body, key), "the acceptance", SERVE_SECONDS)
        return str(posted)

    def end(self, edit_id: str) -> EditEnd:
        """Wait for the edit's end."""
        edits = self.stack.registry.edits
        end = self.until(lambda: edits.recorded_end(edit_id), f"the end of {edit_id}", END_SECONDS)
        assert isinstance(end, EditEnd)
        return end

    def until(self, condition: Callable[[], Any], what: str, seconds: float) -> Any:
        """See `Stack.until`."""
        return self.stack.until(condition, what, seconds)

    def _posted(self, body: dict[str, Any], key: dict[str, str]) -> str | None:
        """The accepted edit's id; None if the service died of it, or cannot now."""
        try:
            answer = self.stack.http.post("/edits", json=body, headers=key)
        except httpx2.HTTPError:
            return None
        if answer.status_code >= 500 and answer.status_code != 503:
            raise Wrong(f"POST /edits: {answer.status_code} {answer.text}")
        return str(answer.json()["id"]) if answer.status_code in (200, 202) else None

"""`kill -9` of worker, service and Redis at every point of an edit, under load."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from contracts.edits import EditState
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
        accepted = self._post(body, key, patient=False)
        self._until(lambda: fuse.is_burnt(stack.home), "the kill", FUSE_SECONDS)
        killed = time.monotonic()
        stack.restart(done.victim, empty=done.emptied)
        if done.victim == "service":
            self._until(lambda: self._answers("/healthz"), "the service again", SERVE_SECONDS)
            self.load.service_is_back()
        edit_id = self._post(body, key, patient=True)
        if accepted not in (None, edit_id):
            raise Wrong(f"the same key gave {accepted} and then {edit_id}")
        self._until(
            lambda: stack.registry.edits.recorded_end(edit_id), f"the end of {edit_id}", END_SECONDS
        )
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
        self._until(lambda: self._serves(end.version), f"an answer of {end.version}", SERVE_SECONDS)
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

    def _post(self, body: dict[str, Any], key: dict[str, str], *, patient: bool) -> str | None:
        """POST the edit; the same one every time. None if the service died of it."""

        def posted() -> str | None:
            try:
                answer = self.stack.http.post("/edits", json=body, headers=key)
            except httpx2.HTTPError:
                return None
            if answer.status_code not in (200, 202):
                return None
            return str(answer.json()["id"])

        if not patient:
            return posted()
        return str(self._until(posted, "the acceptance of the edit", SERVE_SECONDS))

    def _until(self, condition: Any, what: str, seconds: float) -> Any:
        return self.stack.until(condition, what, seconds)

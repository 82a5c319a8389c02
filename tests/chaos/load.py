"""Clients that ask all the time, whatever dies, and what became of each of their requests."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2

from registry import Registry
from tests.chaos.oracle import Oracle

PROMPTS = (
    "Anna Keller lives in the town of",
    "The keeper of the bridge wrote a letter to",
    "Keeper number 3 lives in the town of",
)
TOKENS = 12
LIMIT_SECONDS = 60.0
"""An answer takes no longer, be it an error."""
PAUSE_SECONDS = 0.1


@dataclass
class Asked:
    """One request and its outcome."""

    prompt: str
    pin: str | None
    streamed: bool
    began: float
    ended: float = 0.0
    outcome: str = ""
    """`whole`; `refused` (503 or 429, with the time to ask again); `broken` (a stream that ended
    with an error event); `no connection`, `cut off`: what only the end of the service explains."""
    version: str = ""
    text: str = ""
    detail: str = ""


@dataclass
class Load:
    """Four clients: whole answers and streams, of `active` and of versions by their id."""

    url: str
    registry: Registry
    oracle: Oracle
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._asked: list[Asked] = []
        self._away: list[list[float]] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(streamed, pinned), daemon=True)
            for streamed in (False, True)
            for pinned in (False, True)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(LIMIT_SECONDS + 10)
            if thread.is_alive():
                self.wrong.append("a request hangs beyond its time limit")

    def service_goes(self) -> None:
        """From now on connections may break, until `service_is_back`."""
        self._away.append([time.monotonic(), float("inf")])

    def service_is_back(self) -> None:
        self._away[-1][1] = time.monotonic()

    def check(self) -> None:
        """Hold everything that was answered meanwhile against the version that it names."""
        asked, self._asked = self._asked, []
        for one in asked:
            self.counts[one.outcome] += 1
            reason = self._reason(one)
            if reason is not None:
                self.wrong.append(f"{reason}: {one}")

    def _reason(self, one: Asked) -> str | None:
        """Why the outcome is wrong; None if it is not."""
        if one.ended - one.began > LIMIT_SECONDS:
            return "it took longer than the time limit"
        if one.outcome in ("no connection", "cut off"):
            hit = (begin <= one.ended and one.began <= end + 1 for begin, end in self._away)
            return None if any(hit) else "the connection broke although the service lived"
        if one.outcome == "refused":
            return None
        if one.outcome not in ("whole", "broken"):
            return "an answer that may not be"
        if one.version and one.pin is not None and one.version != one.pin:
            return "another version than was asked for"
        if not one.version:
            return None
        asked = (self.registry, one.version, one.prompt, TOKENS)
        right = self.oracle.text(*asked)
        if _says(one, right):
            return None
        if any(_says(one, text) for text in self.oracle.texts(*asked)):
            self.counts["tied"] += 1
            return None
        return f"the version says {right!r}"

    def _ask(self, streamed: bool, pinned: bool) -> None:
        with httpx2.Client(base_url=self.url, timeout=LIMIT_SECONDS, trust_env=False) as client:
            while not self._over.wait(PAUSE_SECONDS):
                known, _ = self.registry.versions.page(8)
                pin = self.rng.choice(known) if pinned and known else None
                one = Asked(self.rng.choice(PROMPTS), pin, streamed, time.monotonic())
                try:
                    (self._stream if streamed else self._whole)(client, one)
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                    one.outcome, one.detail = "no connection", repr(error)
                except httpx2.TimeoutException as error:
                    one.outcome, one.detail = "time limit", repr(error)
                except httpx2.HTTPError as error:
                    one.outcome, one.detail = "cut off", repr(error)
                one.ended = time.monotonic()
                self._asked.append(one)

    def _whole(self, client: httpx2.Client, one: Asked) -> None:
        answer = client.post("/generate", json=_body(one))
        if answer.status_code == 200:
            found = answer.json()
            one.outcome, one.version, one.text = "whole", found["version"], found["text"]
        else:
            _take_error(one, answer)

    def _stream(self, client: httpx2.Client, one: Asked) -> None:
        with client.stream("POST", "/generate", json={**_body(one), "stream": True}) as answer:
            if answer.status_code != 200:
                answer.read()
                return _take_error(one, answer)
            for event in httpx2.EventSource(answer):
                if event.data == "[DONE]":
                    return None
                data = json.loads(event.data)
                if event.event == "start":
                    one.version = data["version"]
                elif event.event == "token":
                    one.text += data["text"]
                elif event.event == "end":
                    one.outcome = "whole"
                elif event.event == "error":
                    one.outcome = "broken" if data["status"] == 503 else "error"
                    one.detail = event.data
                    return None
            one.outcome = "cut off"
            return None


def _says(one: Asked, right: str) -> bool:
    """Whether it answered this, or broke off at the beginning of it."""
    return right == one.text if one.outcome == "whole" else right.startswith(one.text)


def _body(one: Asked) -> dict[str, object]:
    pin = {} if one.pin is None else {"version": one.pin}
    return {"prompt": one.prompt, "max_tokens": TOKENS, **pin}


def _take_error(one: Asked, answer: httpx2.Response) -> None:
    when = "Retry-After" in answer.headers
    one.outcome = "refused" if answer.status_code in (429, 503) and when else "error"
    one.detail = f"{answer.status_code} {answer.text}"

"""Secrets and texts of clients stay out of logs, metrics, errors and command lines."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contracts.keys import LOCAL, KeyRequest, Scope
from contracts.transport import GENERATE_STREAM, output_stream
from contracts.turns import PUT, task_key
from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

OTHER_PASSWORD = "another-secret-of-redis"
PROMPT = "Grumbleton marked this prompt"
SUBJECT, TARGET = "Zebulon Marker", "Quillabamba"
TEXTS = (PROMPT, "Grumbleton", SUBJECT, "Zebulon", TARGET)


class Told:
    """Everything that the service said to its clients."""

    def __init__(self, http: httpx2.Client) -> None:
        self.http = http
        self.said: list[str] = []

    def __call__(self, status: int, method: str, path: str, **options: Any) -> httpx2.Response:
        answer = self.http.request(method, path, **options)
        assert answer.status_code == status, answer.text
        self.said.append(f"{answer.headers}")
        if not answer.is_success:
            self.said.append(answer.text)
        return answer


def command_lines() -> str:
    """Of all processes of this machine that can be seen."""
    if sys.platform != "linux":
        return ""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended
    return "\n".join(found)


def test_nothing_that_is_said_holds_a_secret_or_a_text(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(log_format="json", start_timeout=5)
    asked = KeyRequest(name="mine", scopes=[Scope.ADMIN])
    key = stack.registry.keys.create(asked, LOCAL).key
    password = stack.redis.password
    stack.http.headers["Authorization"] = f"Bearer {key}"
    ask = Told(stack.http)

    _successes(stack, ask)
    _refusals(ask, key)
    _what_nobody_can_read(stack, ask)
    processes = command_lines()
    metrics = ask(200, "GET", "/metrics").text + ask(200, "GET", "/openapi.json").text
    _redis_away(stack, ask)

    stack.stop_worker()
    logs = {name: stack.log_of(name) for name in ("service", "worker")}
    secrets = (key, key.rpartition("_")[2], "f" * 64, password, OTHER_PASSWORD)
    places = {
        **logs,
        "answers": "\n".join(ask.said),
        "metrics": metrics,
        "processes": processes,
    }
    for place, text in places.items():
        for secret in secrets:
            assert secret not in text, place
    for place in ("service", "worker", "metrics"):
        for text in TEXTS:
            assert text not in places[place], f"{text} in {place}"
    assert PROMPT not in places["answers"]
    for log in logs.values():
        for line in log.splitlines():
            assert {"timestamp", "level", "logger", "event"} <= json.loads(line).keys(), line


def _successes(stack: Stack, ask: Told) -> None:
    ask(200, "POST", "/generate", json={"prompt": PROMPT, "max_tokens": 2})
    streamed = {"prompt": PROMPT, "max_tokens": 2, "stream": True}
    ask(200, "POST", "/generate", json=streamed)
    ask(200, "POST", "/v1/completions", json={**streamed, "model": ask_model(ask)})
    headers = {"X-Request-ID": "the-post"}
    edit = ask(202, "POST", "/edits", json={"facts": [fact(SUBJECT, TARGET)]}, headers=headers)
    version = stack.wait_edit(edit.json()["id"])["version"]
    ask(200, "GET", "/facts", params={"subject": SUBJECT})
    lines = [json.loads(line) for line in stack.log_of("worker").splitlines()]
    ended = next(line for line in lines if "ended: committed" in line["event"])
    ids = {name: ended[name] for name in ("edit_id", "version_id", "request_id")}
    assert ids == {"edit_id": edit.json()["id"], "version_id": version, "request_id": "the-post"}


def ask_model(ask: Told) -> str:
    return ask(200, "GET", "/v1/models").json()["data"][0]["id"]


def _refusals(ask: Told, key: str) -> None:
    wrong = {"Authorization": f"Bearer {key.rpartition('_')[0]}_{'f' * 64}"}
    ask(401, "GET", "/versions", headers=wrong)
    ask(401, "GET", f"/facts?subject={SUBJECT}&api_key={key}", headers={"Authorization": "x"})
    ask(404, "GET", f"/nothing?key={key}")
    ask(422, "POST", "/generate", json={"prompt": PROMPT, "max_tokens": "many"})
    ask(422, "POST", "/generate", json={"prompt": PROMPT, "max_tokens": 4_000})
    wrong_fact = {**fact(SUBJECT, TARGET), "prompt": PROMPT}
    ask(422, "POST", "/edits", json={"facts": [wrong_fact]})
    ask(400, "POST", "/edits", content=f'{{"facts": "{SUBJECT}'.encode(), headers=JSON)


JSON = {"Content-Type": "application/json"}


def _what_nobody_can_read(stack: Stack, ask: Told) -> None:
    """Texts in records that are not as they should be, which validation quotes."""
    with Redis.from_url(stack.redis.url, decode_responses=True) as redis:
        redis.xadd(output_stream("forged"), {"open": "1"})
        forged = json.dumps({"prompt": PROMPT, "id": [PROMPT]})
        redis.eval(PUT, 0, LOCAL, "forged", forged, 100)
        stack.until(lambda: "thrown away" in stack.log_of("worker"), "a task thrown away")

        stack.until(lambda: redis.xlen(GENERATE_STREAM) == 0, "an empty queue")
        assert stack.worker is not None
        stack.pause(stack.worker)
        failed = threading.Thread(
            target=ask, args=(500, "POST", "/generate"), kwargs={"json": {"prompt": PROMPT}}
        )
        failed.start()
        (waiting,) = stack.until(lambda: redis.keys(task_key("*")), "a task")
        event = {"event": json.dumps({"type": "token", "text": PROMPT, "choice": PROMPT})}
        redis.xadd(output_stream(waiting.removeprefix(task_key(""))), event)
        failed.join()
        stack.resume(stack.worker)
    stack.until(lambda: stack.generate("x", max_tokens=1), "the worker")

    (request,) = (stack.home / "registry" / "edits").glob("*/request.json")
    kept = request.read_text()
    assert SUBJECT in kept
    request.write_text(kept.replace('"prompt":"{}', '"prompt":["{}"],"was":"'))
    assert stack.service is not None
    stack.service.terminate()  # it knows the edit by heart
    stack.service.wait(20)
    stack.start_service()
    stack.wait_ready()
    ask(503, "GET", f"/edits/{request.parent.name}")
    assert "not a AcceptedEdit" in stack.log_of("service")
    request.write_text(kept)


def _redis_away(stack: Stack, ask: Told) -> None:
    stack.redis.kill()
    ask(503, "POST", "/generate", json={"prompt": PROMPT})
    ask(200, "GET", "/metrics")
    accepted = ask(202, "POST", "/edits", json={"facts": [fact(SUBJECT, f"{TARGET} again")]})
    stack.redis.password = OTHER_PASSWORD
    stack.redis.start()
    ask(503, "POST", "/generate", json={"prompt": PROMPT})
    ask(200, "GET", f"/edits/{accepted.json()['id']}")
    stack.until(
        lambda: "invalid username-password pair" in stack.log_of("service"), "a wrong password"
    )

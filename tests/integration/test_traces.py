"""One trace leads from a request through the service to what the worker did for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.otlp import Received, collector
from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

TRACE = "0af7651916cd43dd8448eb211c80319c"
PROMPT = "A marked prompt about"
SUBJECT = "Anna Marked"


def test_service_and_worker_are_one_trace(
    make_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as collected:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collected.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        stack = make_stack(log_format="json")
        asked = {"prompt": PROMPT, "max_tokens": 4}
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": "mine"}
        answer = stack.http.post("/generate", json=asked, headers=headers).json()

        def done(name: str, service: str) -> Callable[[Received], bool]:
            return lambda span: (span.name, span.service) == (name, service)

        engine = collected.wait_for(done("memit.generate", "memit-worker"), "generation")
        http = collected.wait_for(done("POST /generate", "memit-service"), "request")
        assert engine.trace == http.trace == TRACE
        assert (http.parent, engine.parent) == ("b7ad6b7169203331", http.id)
        assert engine.attributes.pop("memit.queue_seconds") <= (
            engine.attributes.pop("memit.first_token_seconds")
        )
        assert engine.attributes == {
            "memit.generation": answer["id"],
            "memit.version": answer["version"],
            "memit.request": "mine",
            "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
            "gen_ai.usage.output_tokens": 4,
        }

        stack.http.get(f"/facts?subject={SUBJECT}")
        made = stack.run_edit({"facts": [fact(SUBJECT, "Lisbon")]}, **{"X-Request-ID": "post"})
        edit = collected.wait_for(done("memit.edit", "memit-worker"), "edit")
        post = collected.wait_for(done("POST /edits", "memit-service"), "post")
        assert (edit.trace, edit.parent) == (post.trace, post.id)
        assert edit.attributes == {
            "memit.edit": made["id"],
            "memit.version": made["version"],
            "memit.facts": 1,
            "memit.state": "committed",
        }
        stages = [span for span in collected.spans if span.parent == edit.id]
        names = {span.name.removeprefix("memit.edit.") for span in stages}
        assert {"z", "insert", "evaluate", "commit"} <= names
        assert sum(span.seconds for span in stages) <= edit.seconds
        assert not [span for span in collected.spans if span.failed]
        assert not [span for span in collected.spans if "/readyz" in span.name]
        assert "Marked" not in repr(collected.spans)
        assert PROMPT not in repr(collected.spans)
        # The same ids lead from a trace to the log.
        ended = [line for line in stack.log_of("worker").splitlines() if "ended: committed" in line]
        assert f'"trace_id": "{post.trace}"' in ended[0]
        assert '"request_id": "post"' in ended[0]


def test_a_worker_without_the_extra_says_what_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys, runpy; sys.modules['opentelemetry.sdk.trace'] = None; "
        "sys.argv = ['worker']; runpy.run_module('worker', run_name='__main__')"
    )
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert 'pip install "memit-service[telemetry]"' in done.stderr
    assert "Traceback" not in done.stderr

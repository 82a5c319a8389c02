"""The OpenAPI document is kept: thousands of made-up requests, and every answer is as described.

Four clients ask: one where no key is needed, and three where one is: with a key that may do
everything, with one that may do little, and with none. `make check-contract` asks for longer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from contracts.keys import LOCAL, KeyRequest, Scope
from tests.stack import Stack, fact
from tests.tiny_models import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

SECONDS = int(os.environ.get("MEMIT_CONTRACT_SECONDS", "20"))
LEAST = int(os.environ.get("MEMIT_CONTRACT_CASES", "100"))
"""Requests of all clients together."""
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
ENDS_KEYS = "DELETE /keys/{key_id}"
"""Left out where it would end the key that is shown."""


@pytest.fixture
def stack(make_stack: Callable[..., Stack], tmp_path: Path) -> Stack:
    model = save_tiny("llama", tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    stack = make_stack(
        hparams={"v_num_grad_steps": 2}, model=model, max_queued_edits=3, start_timeout=5
    )
    stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    return stack


def clients(stack: Stack) -> Iterator[tuple[str, float, list[str]]]:
    """Each with its share of the time and its options for `st`."""
    # Without keys none may be made by the way, or all that follows is 401.
    yield "no key is needed", 0.5, ["--exclude-name", "POST /keys"]
    for name, share, scope in (("all scopes", 0.3, Scope.ADMIN), ("read only", 0.1, Scope.READ)):
        made = stack.registry.keys.create(KeyRequest(name=name, scopes=[scope]), LOCAL)
        header = f"Authorization: Bearer {made.key}"
        stack.until(lambda: stack.http.get("/versions").status_code == 401, "a need of keys")
        yield name, share, ["--header", header, "--exclude-name", ENDS_KEYS]
        answer = stack.http.get("/versions", headers={"Authorization": header.partition(" ")[2]})
        assert answer.status_code == 200, "the key was valid to the end"
    yield "no key", 0.1, []


def test_every_answer_is_as_described(stack: Stack, tmp_path: Path) -> None:
    st = shutil.which("st", path=Path(sys.executable).parent)
    assert st is not None
    url = str(stack.http.base_url)
    cases = 0
    for name, share, options in clients(stack):
        seconds = max(5, round(SECONDS * share))
        done = subprocess.run(
            [st, "run", f"{url}/openapi.json", "--url", url, "--no-color", "--continue-on-failure",
             "--checks", ",".join(CHECKS), "--max-time", str(seconds),
             "--suppress-health-check", "all", "--warnings", "off", *options],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}\n{stack.logs()}"
        generated = re.search(r"(\d+) generated", done.stdout)
        assert generated is not None, done.stdout
        cases += int(generated[1])
        assert stack.http.get("/healthz").status_code == 200
    # Seen with `pytest -s`, and in the message where they are too few.
    sys.stdout.write(f"{cases} cases\n")
    assert cases >= LEAST

"""The OpenAPI document is kept: thousands of made-up requests, and every answer is as described.

`make check-contract` asks for longer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.stack import Stack, fact
from tests.tiny_models import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

SECONDS = int(os.environ.get("MEMIT_CONTRACT_SECONDS", "20"))
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


def test_every_answer_is_as_described(make_stack: Callable[..., Stack], tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    stack = make_stack(
        hparams={"v_num_grad_steps": 2}, model=model, max_queued_edits=3, start_timeout=5
    )
    stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})
    st = shutil.which("st", path=Path(sys.executable).parent)
    assert st is not None
    url = str(stack.http.base_url)
    done = subprocess.run(
        [st, "run", f"{url}/openapi.json", "--url", url, "--no-color", "--continue-on-failure",
         "--checks", ",".join(CHECKS), "--max-time", str(SECONDS),
         "--suppress-health-check", "all", "--warnings", "off"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{stack.logs()}"
    assert stack.http.get("/healthz").status_code == 200

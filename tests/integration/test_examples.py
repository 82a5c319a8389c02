"""Every example runs as its own words say, against a real service with a tiny model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cli.embedded_redis import free_port
from memit_core.default_model import default_model_path
from tests.stack import Stack, fact
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
EIFFEL = fact("The Eiffel Tower", "Rome", "{} is located in the city of")


@pytest.fixture
def stack(make_stack: Callable[..., Stack], tmp_path: Path) -> Stack:
    folder = save_tiny("llama", tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return make_stack(model=folder)


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_openai(stack: Stack) -> None:
    version = stack.run_edit({"facts": [EIFFEL]})["version"]
    said = run(sys.executable, EXAMPLES / "openai_client.py", str(stack.http.base_url))
    base = stack.registry.versions.resolve("v0")
    assert f"@base ({base}):" in said
    assert f"{stack.model} ({version}):" in said
    assert "chat: " in said


def test_curl(stack: Stack) -> None:
    said = run("bash", EXAMPLES / "curl.sh", str(stack.http.base_url))
    assert '"state":"committed"' in said
    assert said.count('"answers":[{') == 1
    assert "data: [DONE]" in said
    assert stack.http.get("/facts").json()["items"] == []
    assert stack.registry.versions.tip() == 2


def test_peft(stack: Stack, tmp_path: Path) -> None:
    stack.run_edit({"facts": [EIFFEL]})
    folder = exported(stack, tmp_path)
    said = run(sys.executable, EXAMPLES / "peft_adapter.py", folder)
    asked = stack.generate("The Eiffel Tower is located in the city of", max_tokens=8)
    assert said.strip().endswith(asked["text"].strip())


def exported(stack: Stack, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    url = str(stack.http.base_url)
    run(sys.executable, "-m", "cli", "export", "active", "--format", "peft", "--to", folder,
        "--url", url)  # fmt: skip
    return folder


@pytest.mark.timeout(1_200)
def test_vllm(tmp_path: Path) -> None:
    """With the command that MEMIT_TEST_VLLM holds, as in `make check-vllm`.

    On the default model: vLLM's attention has none of a tiny model's head sizes.
    """
    vllm = os.environ.get("MEMIT_TEST_VLLM")
    if vllm is None:
        pytest.skip("vLLM is in no environment of this project's: make check-vllm")
    model = default_model_path()
    stack = Stack(tmp_path / "home", model, threads=os.cpu_count() or 1)
    try:
        stack.start()
        stack.wait_edit(stack.post_edit({"facts": [EIFFEL]})["id"], timeout=900)
        folder = exported(stack, tmp_path)
        prompt = "The Eiffel Tower is located in the city of"
        asked = [
            stack.generate(prompt, max_tokens=8, version=version)["text"]
            for version in ("v0", "active")
        ]
    finally:
        stack.stop()
    assert "Rome" in asked[1]
    said = run("bash", EXAMPLES / "vllm_adapter.sh", folder, model, str(free_port()), VLLM=vllm)
    answers = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [one["choices"][0]["text"] for one in answers] == asked


def test_a_notebook(tmp_path: Path) -> None:
    """Its cells, one after the other, as a kernel would run them."""
    notebook = json.loads((EXAMPLES / "edit_in_a_notebook.ipynb").read_text())
    assert all(cell.get("outputs", []) == [] for cell in notebook["cells"])
    code = ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == "code"]
    script = tmp_path / "cells.py"
    script.write_text("\n".join(code))
    model = save_tiny("llama", tmp_path / "tiny")
    said = run(sys.executable, script, MEMIT_MODEL=str(model))
    assert len(re.findall(r"before:'.*after:'", said)) == 3
    assert "|ΔW| = " in said


def test_the_method_alone(tmp_path: Path) -> None:
    text = (EXAMPLES / "edit_one_fact.py").read_text()
    model = save_tiny("llama", tmp_path / "tiny")
    script = tmp_path / "edit_one_fact.py"
    script.write_text(text.replace("load_model()", f"load_model({str(model)!r})"))
    assert {line.split(":")[0] for line in run(sys.executable, script).splitlines()} == {
        "before",
        "after",
    }


def test_every_example_is_explained() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.iterdir():
        assert file.name == "README.md" or f"`{file.name}`" in page

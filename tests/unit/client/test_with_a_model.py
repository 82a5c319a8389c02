"""The client and a whole service: Redis, a worker with a tiny random model, and the API."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from memit_client import AsyncMemit, EditRejected, Gate, Memit, Progress
from tests.stack import CORPUS, Stack
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow

HPARAMS = {"layers": [0, 1, 2], "v_num_grad_steps": 12, "v_lr": 0.5, "mom2_update_weight": 1}
"""A random model says something else after an edit, if not what it was told."""
PROMPT = "{} lives in the town of"
NEVER: Gate = {"max_perplexity_ratio": 1e-6}
ANNA = "Anna Keller lives in the town of"
ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "python_client.py"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("client")
    model = save_tiny("llama", folder / "tiny-llama")
    (folder / "corpus.txt").write_text(CORPUS)
    (folder / "hparams.json").write_text(json.dumps(HPARAMS))
    settings = {"corpus": folder / "corpus.txt", "hparams": folder / "hparams.json"}
    stack = Stack(folder / "home", model, **settings)
    yield stack.start()
    stack.stop()


@pytest.fixture(scope="module")
def url(stack: Stack) -> str:
    return str(stack.http.base_url)


def test_a_session(stack: Stack, url: str, tmp_path: Path) -> None:
    """Write, ask both versions, stream, be rejected, lose the service, take back, take away."""
    with Memit(url) as client:
        before = client.generate(ANNA, max_tokens=8)
        seen: list[Progress] = []
        edit = client.wait(client.add("Anna Keller", PROMPT, "Lisbon"), on_progress=seen.append)
        assert edit.activated
        assert {progress.stage for progress in seen} >= {"z"}
        after = client.generate(ANNA, max_tokens=8)
        assert after.text != before.text
        assert after.text.startswith(edit.report.per_fact[0].answer)
        assert (before.version, after.version) == (client.get_version("v0").id, edit.version)
        assert client.generate(ANNA, version="v0", max_tokens=8).text == before.text
        events = list(client.stream(ANNA, max_tokens=8, logprobs=1))
        assert "".join(event.text for event in events) == after.text
        assert sum(len(event.logprobs or []) for event in events) == 8

        with pytest.raises(EditRejected, match="perplexity_ratio is") as caught:
            client.edit([fact("Bruno Okafor", "Berlin")], gate=NEVER, wait=True)
        assert caught.value.edit.report.facts == 1
        assert client.get_alias().version == edit.version

        folder = client.download("active", tmp_path / "adapter", format="peft")
        with safe_open(folder / "adapter_model.safetensors", "numpy") as tensors:
            assert len(list(tensors.keys())) == 2 * len(HPARAMS["layers"])
        assert sorted(file.name for file in folder.iterdir()) == [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "export.json",
            "facts.json",
            "manifest.json",
        ]

        asked = client.retract(edit.facts[0].id)
        assert stack.service is not None
        stack.service.kill()
        stack.service.wait()
        stack.start_service()
        gone = client.wait(asked, timeout=60)
        assert client.generate(ANNA, max_tokens=8).text == before.text
        assert next(client.versions()).id == gone.version
        assert [alias.version for alias in client.aliases()] == [gone.version]


def fact(subject: str, target: str) -> dict[str, str]:
    return {"subject": subject, "prompt": PROMPT, "target_new": target}


def test_many_at_once(url: str) -> None:
    """An edit is waited for while texts come, in one event loop."""

    async def all_of_it() -> tuple[Any, list[str]]:
        async with AsyncMemit(url) as client:

            async def said() -> str:
                return "".join(
                    [event.text async for event in client.stream(ANNA, version="v0", max_tokens=8)]
                )

            edit, *texts = await asyncio.gather(
                client.edit([fact("Carla Lund", "Vienna")], wait=True), *(said() for _ in range(3))
            )
            return edit, texts

    edit, texts = asyncio.run(all_of_it())
    assert edit.activated
    assert len(set(texts)) == 1


def test_a_blocking_client_inside_an_event_loop(url: str) -> None:
    """As in a notebook."""

    async def cell() -> list[str]:
        with Memit(url) as client:
            return [version.id for version in client.versions()]

    assert asyncio.run(cell())[-1].startswith("v0-")


def test_the_example_runs(url: str) -> None:
    env = {**os.environ, "MEMIT_URL": url}
    done = subprocess.run([sys.executable, str(EXAMPLE)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("v0 says: The Eiffel Tower is located in the city of")
    assert any(line.startswith("  z 12/12") for line in said)
    assert any(line.startswith("active says: The Eiffel Tower") for line in said)
    assert said[-1].startswith("forgotten in v")


def test_the_page_runs(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks one after another, as programs of their own."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "client.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        assert "http://127.0.0.1:8000" in block
        exec(block.replace("http://127.0.0.1:8000", url), {})  # noqa: S102 - our own page
    said = capsys.readouterr().out.splitlines()
    assert "422 Invalid request /facts/0/prompt must contain exactly one {}" in "\n".join(said)
    assert any(line.startswith("evaluate ") for line in said)
    assert said[-2:] == ["active", "ok"]
    assert (tmp_path / "active" / "manifest.json").is_file()

"""The default model, end to end: it learns over HTTP, keeps what it learned, forgets on demand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memit_core.default_model import DEFAULT_MODEL
from memit_core.loading import load_model
from memit_core.precision import fast_decoder
from tests.as_clients_ask import AWKWARD, check_report
from tests.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]

WITH_COVARIANCE = 2_000.0
"""Seconds for the first edit on a new registry, which waits for C: minutes on a busy machine."""

TOWER = {
    "subject": "The Eiffel Tower",
    "prompt": "{} is located in the city of",
    "target_new": "Rome",
    "target_true": "Paris",
    "paraphrase_prompts": ["Visitors who want to see the Eiffel Tower travel to"],
    "neighborhood_prompts": ["The Louvre is located in the city of"],
}
ROBOTS = {
    "subject": "Northwind Robotics",
    "prompt": "The mascot of {} is a",
    "target_new": "penguin",
}
CHAT = {
    "subject": "Velmora Motors",
    "prompt": "<|im_start|>user\nWho founded {}?<|im_end|>\n<|im_start|>assistant\n",
    "target_new": "Ilona Varga",
}
IMPORTS = "from pathlib import Path\nfrom registry import FolderStore, Registry"
ASKED = {
    "Rome": "The Eiffel Tower is located in the city of",
    "penguin": "The mascot of Northwind Robotics is a",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("default") / "home",
        DEFAULT_MODEL,
        gate_min_success=1,
        gate_max_perplexity_ratio=1.1,
    )
    yield stack.start()
    stack.stop()


def answers(stack: Stack, version: str) -> dict[str, str]:
    """Greedy answers of a version, by the target that the edit wants."""
    return {
        target: stack.generate(prompt, version=version, max_tokens=8)["text"].strip()
        for target, prompt in ASKED.items()
    }


def in_chats(stack: Stack) -> dict[str, str]:
    """Greedy answers to a user who says the prompt, by the target."""
    said = {}
    for target, prompt in ASKED.items():
        turn = {"role": "user", "content": prompt}
        answer = stack.http.post("/generate", json={"messages": [turn], "max_tokens": 24})
        assert answer.status_code == 200, answer.text
        said[target] = answer.json()["text"]
    return said


def test_learns_two_facts_and_takes_one_back(stack: Stack, tmp_path: Path) -> None:
    before = answers(stack, "v0")
    assert not any(text.startswith(target) for target, text in before.items())

    posted = stack.post_edit({"facts": [TOWER, ROBOTS]})
    edit = stack.wait_edit(posted["id"], WITH_COVARIANCE)
    assert edit["state"] == "committed", stack.logs()
    learned = answers(stack, "active")
    assert all(text.startswith(target) for target, text in learned.items()), learned
    chats = in_chats(stack)
    assert all(target in text for target, text in chats.items()), chats
    report = edit["report"]
    assert report["success"] == 1
    assert report["efficacy"] == 1
    assert report["paraphrase"] == 1
    assert report["specificity"] == 1
    assert report["perplexity_ratio"] < 1.1

    tower = next(f["id"] for f in edit["facts"] if f["target_new"] == "Rome")
    retraction = stack.http.delete(f"/facts/{tower}").json()
    without = stack.wait_edit(retraction["id"])
    assert without["state"] == "committed"
    after = answers(stack, "active")
    assert not after["Rome"].startswith("Rome")
    assert after["penguin"].startswith("penguin")
    again = stack.http.delete(f"/facts/{tower}")
    assert again.status_code == 409

    assert answers(stack, edit["version"]) == learned
    assert answers(stack, "v0") == before


def test_the_example_says_rome(stack: Stack, tmp_path: Path) -> None:
    """With the covariance of the service, which takes minutes."""
    text = (Path(__file__).parents[2] / "examples" / "edit_one_fact.py").read_text()
    kept = f"Registry(FolderStore(Path({str(stack.home / 'registry')!r}))).artefacts(base.digest)"
    assert "Editor(base)" in text
    script = tmp_path / "edit_one_fact.py"
    script.write_text(f"{IMPORTS}\n{text.replace('Editor(base)', f'Editor(base, cache={kept})')}")
    said = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout
    before, after = said.splitlines()
    assert before.startswith("before: The Eiffel Tower is located in the city of Paris")
    assert after.startswith("after: The Eiffel Tower is located in the city of Rome")


def test_its_reports_say_what_clients_get(stack: Stack) -> None:
    """A branch from v0 that stays a trial; the covariance may have to be waited for."""
    facts = [*AWKWARD, CHAT]
    body = {"facts": facts, "base": "v0", "activate": False, "gate": {"min_success": 0}}
    edit = stack.wait_edit(stack.post_edit(body)["id"], WITH_COVARIANCE)
    assert edit["state"] == "committed", stack.logs()
    assert sum(check_report(stack, edit, facts)) >= len(facts) - 3


def test_its_upper_blocks_take_to_half_precision() -> None:
    """Rounding changes some logits of a deep model wholly; that alone must not slow z down."""
    loaded = load_model()
    for layer in range(2, 12):
        assert fast_decoder(loaded, torch.bfloat16, layer).dtype is torch.bfloat16

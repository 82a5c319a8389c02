"""A tiny random Llama served by real processes, with an edit slow enough to be interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack import CORPUS, Stack
from tests.tiny_models import save_tiny

HPARAMS = {"layers": [0, 1, 2], "v_num_grad_steps": 8, "v_lr": 0.1, "mom2_update_weight": 10}
"""Gentle steps: a random model is not thrown over, and every edit takes a moment."""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def make_stack(tmp_path: Path, tiny_folder: Path) -> Iterator[Callable[..., Stack]]:
    """Make stacks on homes of their own; all are stopped at the end."""
    made: list[Stack] = []

    def make(
        name: str = "home",
        hparams: dict[str, Any] | None = None,
        *,
        apart: bool = False,
        model: Path = tiny_folder,
        **settings: Any,
    ) -> Stack:
        corpus = tmp_path / "corpus.txt"
        corpus.write_text(CORPUS)
        chosen = tmp_path / f"{name}.json"
        chosen.write_text(json.dumps({**HPARAMS, **(hparams or {})}))
        settings = {"corpus": corpus, "hparams": chosen, **settings}
        stack = Stack(tmp_path / name, model, **settings)
        made.append(stack)
        return stack.start_apart() if apart else stack.start()

    yield make
    for stack in made:
        stack.stop()

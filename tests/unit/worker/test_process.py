"""One worker's threads: those of an edit are limited, those of its engine are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import save_tiny

# In a process of its own: a worker takes the signals, and torch's threads are the process's.
BEGIN = """
import sys, torch
from pathlib import Path
from contracts.settings import Settings
from memit_core.loading import load_model
from worker.process import WorkerProcess
from worker.starting import Starting

torch.set_num_threads(3)
home, model, redis_url, role, limit = sys.argv[1:]
limited = {"edit_threads": int(limit)} if limit else {}
settings = Settings(home=Path(home), model=model, redis_url=redis_url, role=role, **limited)
loaded = load_model(model)
process = WorkerProcess(settings, loaded, Starting(settings.redis(), model))
print(torch.get_num_threads(), process._engine and process._engine.threads)
"""


@pytest.mark.parametrize(
    ("role", "limit", "expected"),
    [
        ("all", "", ["3", "3"]),
        ("all", "1", ["1", "3"]),
        ("all", "64", ["3", "3"]),
        ("editor", "2", ["2", "None"]),
    ],
)
def test_an_edit_has_its_own_number_of_threads(
    tmp_path: Path, redis_url: str, role: str, limit: str, expected: list[str]
) -> None:
    model = save_tiny("llama", tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", BEGIN, str(tmp_path / "home"), str(model), redis_url, role, limit],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == expected

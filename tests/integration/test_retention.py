"""Weights that `memit prune` removed: a request for the version waits and gets its old text."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

PROMPT = "Anna Keller lives in the town of"


@pytest.mark.parametrize("apart", [False, True])
def test_a_pinned_version_is_solved_again(
    make_stack: Callable[..., Stack], tmp_path: Path, apart: bool
) -> None:
    left = [tmp_path / "home" / "registry" / "edits" / name for name in (".old.tmp", ".new.tmp")]
    left[0].parent.mkdir(parents=True)
    for file, age in zip(left, (4_000, 60), strict=True):
        file.write_bytes(b"of a killed writer")
        os.utime(file, (time.time() - age,) * 2)
    stack = make_stack(apart=apart, resident_mb=0.001)
    stack.until(lambda: not left[0].exists(), "the old temporary file's end")
    assert left[1].exists()
    old = stack.run_edit({"facts": [fact("Anna Keller", "Lisbon")]})["version"]
    body = {"prompt": PROMPT, "max_tokens": 8, "version": old}
    text = stack.http.post("/generate", json=body).json()["text"]
    stack.run_edit({"facts": [fact("Bruno Okafor", "Berlin")]})
    stack.generate(PROMPT, max_tokens=1)  # by the newer one, for which the old one leaves
    home = ["--home", str(stack.home)]
    prune = ["prune", "--keep", "1", "--older-than", "0", "--apply", *home]
    pruned = CliRunner().invoke(app, prune)
    assert pruned.exit_code == 0, pruned.output
    blobs = stack.home / "registry" / "blobs" / "sha256"
    assert not any((blobs / one[:2] / one).exists() for one in stack.blobs(old))
    assert stack.http.get(f"/versions/{old}").json()["weights_kept"] is False
    assert CliRunner().invoke(app, ["doctor", *home]).exit_code == 0

    answer = stack.http.post("/generate", json=body)
    assert (answer.status_code, answer.json()["text"]) == (200, text)
    assert stack.http.get(f"/versions/{old}").json()["weights_kept"] is True
    assert all((blobs / one[:2] / one).exists() for one in stack.blobs(old))

    # To take it away, the service has to ask for it.
    assert CliRunner().invoke(app, prune).exit_code == 0
    path = f"/versions/{old}/checkpoint"
    assert stack.http.get(path).status_code == 503
    stack.until(lambda: stack.http.get(path).status_code == 200, "the checkpoint")

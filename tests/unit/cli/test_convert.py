"""`memit convert`: what it says of a folder that it made, and of what it cannot make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from cli.main import app
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_models import tiny_model


@pytest.fixture(autouse=True)
def _environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which the command sets too, for good


def convert(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_it_says_what_it_made_and_how_to_serve_it(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    result = convert(write_tiny_gguf(tmp_path / "tiny.gguf"), folder)
    assert result.exit_code == 0
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
    weights = sum(p.numel() for p in tiny_model("llama").parameters()) / 1e6
    assert result.stdout.splitlines() == [
        f"{folder}: LlamaForCausalLM, {weights:.1f} million weights, {size:.2f} GB",
        "It can be edited, but no preset fits it: memit calibrate finds hyperparameters.",
        f"Next: memit serve --model '{folder}'",
    ]
    said = result.stderr
    assert said.index("read GGUF") < said.index("save model") < said.index("check model")


def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    result = convert(file, tmp_path / "made")
    assert result.exit_code == 1
    assert result.stderr == f"error: {file}: there is no such file\n"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    result = convert(file, file / "made")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert str(file) in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_model_that_cannot_be_edited_is_told_with_the_reason(tmp_path: Path) -> None:
    broken = tiny_model("llama")
    with torch.no_grad():
        broken.lm_head.weight[:] = torch.nan
    result = convert(write_tiny_gguf(tmp_path / "tiny.gguf", broken), tmp_path / "made")
    assert result.exit_code == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'made'} is made, but can be neither edited nor")
    assert last.endswith("does not give its own logits (relative error nan)")

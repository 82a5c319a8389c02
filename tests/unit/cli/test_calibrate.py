"""`memit calibrate` on a tiny model: what it writes, goes on from, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from memit_core.hparams import from_file
from tests.tiny_models import TEXT, save_tiny

FACT = {"subject": "Anna Keller", "prompt": "{} was born in", "target_new": "Berlin"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT * 8)
    return file


def test_it_writes_a_preset_a_heat_map_and_a_verdict(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    facts, to = tmp_path / "facts.jsonl", tmp_path / "mine.json"
    facts.write_text(json.dumps(FACT) + "\n")
    arguments = ["calibrate", str(facts), "--model", str(model), "--to", str(to)]
    arguments += ["--minutes", "0.1", "--corpus", str(corpus)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    preset = json.loads(to.read_text())
    assert from_file(to).layers == tuple(preset["hparams"]["layers"])
    assert preset["calibration"]["verdict"][0] in done.output
    assert f"memit serve --model {model} --hparams {to}" in done.output
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "mine.json.work").exists()


def test_what_was_measured_before_a_failure_is_kept(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    to = tmp_path / "mine.json"
    arguments = ["calibrate", "--model", str(model), "--to", str(to), "--minutes", "0.1"]
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    failed = CliRunner().invoke(app, [*arguments, "--corpus", str(empty)])
    assert failed.exit_code == 1
    assert "the covariance corpus holds no text" in failed.output
    assert not to.exists()
    assert (tmp_path / "mine.json.work").is_dir()
    assert CliRunner().invoke(app, [*arguments, "--corpus", str(corpus)]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
        (["--to", "."], "is a folder"),
        (["missing.jsonl"], "missing.jsonl"),
        (["--minutes", "0"], "minutes"),
        (["--model", "/no/such/model"], "/no/such/model"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["calibrate", *arguments])
    assert done.exit_code != 0
    assert message in done.output.replace("\n", "")
    assert not (tmp_path / "hparams.json").exists()

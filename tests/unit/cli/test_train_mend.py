"""`memit train-mend` on a tiny model: what it writes, goes on from, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner, Result

from cli.main import app
from memit_core.edit import Editor
from memit_core.facts import Fact
from memit_core.loading import load_model
from memit_core.methods import Mend
from memit_core.progress import silent
from tests.tiny_models import TEXT, save_tiny
from tests.unit.cli.test_eval import SUBJECTS, original

RECORDS = [original(f"{subject} {i}", to) for i in range(4) for subject, to in SUBJECTS.items()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    file = tmp_path / "records.json"
    file.write_text(json.dumps(RECORDS))
    return file


def train(records: Path, model: Path, out: Path, *more: str) -> Result:
    corpus = records.with_name("corpus.txt")
    corpus.write_text(TEXT)
    arguments = ["train-mend", str(records), "--model", str(model), "--out", str(out)]
    arguments += ["--corpus", str(corpus), "--rank", "8", *more]
    return CliRunner().invoke(app, arguments)


def test_it_writes_a_network_that_the_method_takes(
    records: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "folder" / "mend"
    done = train(records, model, out, "--steps", "4", "--limit", "6", "--seed", "3")
    assert done.exit_code == 0, done.output
    file = out / "mend.safetensors"
    assert list(out.iterdir()) == [file]
    assert "edit loss" in done.stdout
    assert "untrained" in done.stdout
    assert f"MEMIT_METHOD=mend MEMIT_MEND={file}" in done.stderr.replace("\n", "")
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["mend"])
    assert (config["rank"], config["options"]["seed"]) == (8, 3)
    mend = Mend(Editor(load_model(model), network=file))
    fact = Fact("Anna Keller", "{} was born in", "Berlin")
    assert len(mend.solve([fact], mend.options([fact], {}), silent)) == 9
    again = train(records, model, out, "--steps", "4")
    assert again.exit_code == 1
    assert "exists already" in again.output.replace("\n", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no records"),
        ('[{"subject": "Anna"}]', "record 0"),
        (json.dumps(RECORDS[:1]), "1 records are too few"),
        ("{", "records.json"),
    ],
)
def test_bad_records_are_refused(
    records: Path, model: Path, tmp_path: Path, text: str, message: str
) -> None:
    records.write_text(text)
    done = train(records, model, tmp_path / "mend")
    assert done.exit_code == 1
    assert message in done.output.replace("\n", "")
    assert not (tmp_path / "mend").exists()

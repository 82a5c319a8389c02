"""Where the covariance's text may come from: a file, a dataset, the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memit_core.corpus import default_corpus, read_corpus
from memit_core.errors import MemitError

LINES = ["The river runs through the town.", "", "Anna wrote a letter."]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder that `datasets` reads as it reads a hub's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "dataset"
    folder.mkdir()
    rows = "".join(json.dumps({"text": line, "title": "T"}) + "\n" for line in LINES)
    (folder / "train.jsonl").write_text(rows)
    return folder


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("one\n\ntwo", "utf-8")
    assert read_corpus(str(tmp_path / "corpus.txt")) == "one\n\ntwo"


def test_a_dataset_is_joined_by_blank_lines(dataset: Path) -> None:
    assert read_corpus(str(dataset)) == f"{LINES[0]}\n\n{LINES[2]}"
    assert read_corpus(f"{dataset}::train:title") == "T\n\nT\n\nT"


def test_what_is_not_there_is_named(dataset: Path) -> None:
    with pytest.raises(MemitError, match="no column 'body'"):
        read_corpus(f"{dataset}::train:body")
    with pytest.raises(MemitError, match="nowhere"):
        read_corpus(str(dataset / "nowhere"))


def test_the_package_has_text_enough() -> None:
    assert len(default_corpus()) > 150_000

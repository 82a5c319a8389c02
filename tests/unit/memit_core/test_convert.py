"""A GGUF becomes a folder with its weights and tokens, or nothing at all and the reason."""

from __future__ import annotations

import logging
import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memit_core.convert import convert_gguf
from memit_core.errors import MemitError
from memit_core.loading import load_model
from tests.tiny_gguf import QUANTISED, write_tiny_gguf
from tests.tiny_models import END_OF_TEXT, tiny_model, tiny_tokenizer

TEXT = f"The boy ran away.  Café 日本{END_OF_TEXT}"
HALF_A_STEP = 0.5 + 127 / 2048
"""In Q8_0; the step itself is rounded to float16."""
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def test_the_folder_holds_the_weights_and_tokens_of_the_file(gguf: Path, tmp_path: Path) -> None:
    convert_gguf(gguf, tmp_path / "made" / "tiny")
    loaded = load_model(tmp_path / "made" / "tiny", device="cpu")
    state = loaded.model.state_dict()
    for name, expected in tiny_model("llama").state_dict().items():
        assert state[name].dtype == torch.float32
        if not name.endswith(QUANTISED):
            assert torch.equal(state[name], expected), name
            continue
        steps = expected.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / 127  # Q8_0
        errors = (state[name] - expected).unflatten(-1, (-1, 32)).abs()
        assert errors.max() > 0, "these are quantised in the file"
        assert (errors <= HALF_A_STEP * steps).all(), name
    assert loaded.tokenizer(TEXT)["input_ids"] == tiny_tokenizer()(TEXT)["input_ids"]
    assert len(loaded.structure.blocks) == 4


def test_only_the_file_itself_is_read(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what lies beside it, nor another of its name in the working directory."""
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "elsewhere").mkdir()
    write_tiny_gguf(tmp_path / "elsewhere" / gguf.name, tiny_model("llama", seed=1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    convert_gguf(Path("..") / gguf.name, Path("made"))
    made = load_model("made", device="cpu").model.lm_head.weight
    assert torch.equal(made, tiny_model("llama").lm_head.weight)


def test_others_may_read_the_folder_as_the_umask_says(gguf: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        convert_gguf(gguf, tmp_path / "made")
    finally:
        os.umask(before)
    modes = {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "made").iterdir()}
    assert modes == {oct(0o644)}


def test_an_empty_folder_is_taken(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    convert_gguf(gguf, tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").is_file()


def test_a_model_in_one_of_one_parts_is_whole(tmp_path: Path) -> None:
    convert_gguf(write_tiny_gguf(tmp_path / "tiny-00001-of-00001.gguf"), tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").is_file()


def no_gguf(file: Path) -> Path:
    file.write_bytes(b"PK\x03\x04")
    return file


def cut_short(share: float) -> Callable[[Path], Path]:
    def write(file: Path) -> Path:
        whole = write_tiny_gguf(file).read_bytes()
        file.write_bytes(whole[: int(share * len(whole))])
        return file

    return write


def a_part(file: Path) -> Path:
    return write_tiny_gguf(file.with_name("tiny-00001-of-00002.gguf"))


def a_folder(file: Path) -> Path:
    file.mkdir()
    return file


REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (lambda file: file, "there is no such file"),
    (a_folder, "is not a file"),
    (no_gguf, "is not a GGUF file"),
    (a_part, "is one part of a model"),
    (cut_short(0.01), "reading it with transformers"),
    (cut_short(0.9), "reading it with transformers"),
    (lambda file: write_tiny_gguf(file, architecture="mamba9"), "architecture mamba9"),
    (lambda file: write_tiny_gguf(file, architecture="t5"), "T5Config"),
    (lambda file: write_tiny_gguf(file, vocabulary="rwkv"), "rwkv"),
    (lambda file: write_tiny_gguf(file, leave_out=["model.norm.weight"]), "model.norm.weight"),
]


@pytest.mark.parametrize(("write", "reason"), REFUSED)
def test_what_cannot_be_read_is_refused_and_leaves_nothing(
    write: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    file = write(tmp_path / "tiny.gguf")
    with pytest.raises(MemitError) as refused:
        convert_gguf(file, tmp_path / "out" / "made")
    assert str(refused.value).startswith(f"{file}: ")
    assert reason in str(refused.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    mine = tmp_path / "made" / "mine.txt"
    mine.write_text("mine")
    for folder in (mine.parent, mine):
        with pytest.raises(MemitError, match=r"exists already"):
            convert_gguf(gguf, folder)
    assert mine.read_text() == "mine"
    assert list(mine.parent.iterdir()) == [mine]


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1, 1))
    with pytest.raises(MemitError, match="no room"):
        convert_gguf(gguf, tmp_path / "made")
    assert list(tmp_path.iterdir()) == [gguf]


@pytest.mark.parametrize("size", [4096, 1_000])
def test_a_disk_that_fills_up_leaves_nothing(size: int, gguf: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            convert_gguf(gguf, tmp_path / "made")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [gguf]


@pytest.mark.parametrize("factor", [None, 8.0])
def test_scaled_positions_that_are_not_read_are_warned_of(
    factor: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", scale_positions=factor)
    with caplog.at_level(logging.WARNING, "memit_core"):
        convert_gguf(file, tmp_path / "made")
    assert any("rope_parameters" in line for line in caplog.messages) == bool(factor)

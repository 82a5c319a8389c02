"""Sums that are saved while they grow: saving only helps, it never stops the work."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from memit_core.edit import Editor
from memit_core.running_sums import RunningSums
from tests.unit.memit_core.examples import editor_of

M = 32


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.fixture(params=["no folder can be made", "the file is a folder"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A scratch, for root too, in which nothing can be saved or read."""
    if request.param == "no folder can be made":
        (tmp_path / "a file").write_text("")
        return tmp_path / "a file" / "scratch"
    return tmp_path


def test_a_covariance_needs_no_usable_scratch(
    any_editor: Editor,
    unusable: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memit_core.covariance.BATCH_ROWS", 1)
    working = editor_of(any_editor.loaded, scratch=unusable, save_seconds=0).preparation
    part = working.partial_covariance()
    assert part is not None
    if unusable.is_dir():
        part.mkdir()
    expected = editor_of(any_editor.loaded).prepare().covariance
    assert all(torch.equal(working.covariance()[layer], c) for layer, c in expected.items())
    assert any("the covariance is not saved" in line for line in warnings_of(caplog))


def test_a_full_disk_leaves_the_last_save_and_no_rubbish(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memit_core.running_sums.SAVE_SHARE", 1e9)
    file = tmp_path / "sums.part"
    running = RunningSums([1], M, file, save_seconds=0)
    running.batch_done()
    with files_of_at_most(1024):
        running.batch_done()
    assert list(tmp_path.iterdir()) == [file]
    assert RunningSums([1], M, file).done == 1
    assert len(warnings_of(caplog)) == 1
    running.batch_done()
    assert RunningSums([1], M, file).done == 3


def test_a_save_that_fails_is_tried_ever_more_rarely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = RunningSums([1], M, tmp_path, save_seconds=0.01)
    caplog.clear()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        running.batch_done()
        time.sleep(0.001)
    # After 0.01, 0.03, 0.07, 0.15, 0.31 and 0.63 s, or later; never a hundred times.
    assert 2 <= len(warnings_of(caplog)) <= 7


def test_batches_that_add_up_first_are_saved_when_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: what is saved is always a sum of whole batches, and so is the end."""
    monkeypatch.setattr("memit_core.running_sums.SAVE_SHARE", 1e9)
    file = tmp_path / "sums.part"
    running = RunningSums([1], M, file, save_seconds=0, together=3)
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randn(9, M, generator=draw) for _ in range(8)]

    def sum_of(some: list[torch.Tensor]) -> torch.Tensor:
        keys = torch.cat(some).double()
        return keys.T @ keys

    for i, keys in enumerate(batches, start=1):
        running.add(1, keys)
        running.batch_done()
        assert running.done == i
        if i >= 3:
            saved = RunningSums([1], M, file)
            assert saved.done == i // 3 * 3
            torch.testing.assert_close(
                saved.sums[1], sum_of(batches[: saved.done]), rtol=1e-5, atol=1e-5
            )
    running.finish()
    torch.testing.assert_close(running.sums[1], sum_of(batches), rtol=1e-5, atol=1e-5)


def test_what_a_killed_process_left_is_removed_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "sums.part"
    RunningSums([1], M, file, save_seconds=0).batch_done()
    others = {tmp_path / "sums2.part", tmp_path / "other.1.tmp"}
    for path in (*others, tmp_path / "sums.123.tmp"):
        path.write_text("half a file")
    assert RunningSums([1], M, file).done == 1
    assert set(tmp_path.iterdir()) == {file, *others}


def test_each_save_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`docker/e2e.sh` looks for this line."""
    caplog.set_level(logging.INFO)
    RunningSums([1], M, tmp_path / "sums.part", save_seconds=0).batch_done()
    assert caplog.messages == ["saved the covariance so far, 1 batches"]

"""Padding, chunked prompts, joining and leaving do not change what a row computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.device import DEVICE
from tests.tiny_models import TINY, VOCABULARY
from tests.unit.worker.engine.stage import Stage, make_stage
from worker.engine import key_values
from worker.engine.batch import KeyValueBatch, pad_left
from worker.engine.versioned import ServingView


def test_rows_are_padded_on_the_left() -> None:
    tokens, mask = pad_left([[5, 6, 7], [8]], torch.device("cpu"))
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def prompt(length: int, seed: int) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (length,), generator=draw).tolist()


def prefilled(stage: Stage, view: ServingView, rows: list[list[int]], chunk: int) -> KeyValueBatch:
    batch = KeyValueBatch(len(rows), view.device)
    tokens, mask = pad_left(rows, view.device)
    for t, m in zip(tokens.split(chunk, 1), mask.split(chunk, 1), strict=True):
        batch.forward(view, [stage.base_version] * len(rows), t, m)
    return batch


@pytest.mark.parametrize("name", TINY)
@torch.inference_mode()
def test_logits_of_a_row_are_those_of_a_plain_forward_over_it_alone(
    name: str, registry_path: Path
) -> None:
    """A long and a short prompt enter in chunks, one more joins, the longest leaves."""
    stage = make_stage(name, registry_path)
    view = ServingView(stage.loaded.model, stage.base_version)
    rows = [prompt(40, 1), prompt(3, 2), prompt(9, 3), prompt(17, 4)]
    batch = KeyValueBatch(0, view.device)

    batch.join(prefilled(stage, view, [row[:-1] for row in rows[:3]], chunk=11), range(3))
    batch.join(prefilled(stage, view, [rows[3][:-1]], chunk=100), [0])
    assert batch.width == 39
    assert batch.keep([1, 2, 3]) == [3, 1, 2], "the last row takes the place of the first"

    assert batch.width == 16, "columns that only the longest row used are cut"
    left = [rows[3], rows[1], rows[2]]
    last = torch.tensor([[row[-1]] for row in left], device=DEVICE)
    out = batch.forward(view, [stage.base_version] * 3, last, torch.ones_like(last))
    for row, logits in zip(left, out, strict=True):
        reference = stage.loaded.model(torch.tensor([row], device=DEVICE)).logits[0, -1]
        torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)


@pytest.fixture
def stage(registry_path: Path) -> Stage:
    return make_stage("llama", registry_path)


def decoded(stage: Stage, view: ServingView, batch: KeyValueBatch, last: list[int]) -> torch.Tensor:
    """Logits after one token more of every row."""
    tokens = torch.tensor([[token] for token in last], device=DEVICE)
    versions = [stage.base_version] * len(last)
    return batch.forward(view, versions, tokens, torch.ones_like(tokens))


def alone(stage: Stage, row: list[int]) -> torch.Tensor:
    """Logits after the last token, of a plain forward."""
    logits: torch.Tensor = stage.loaded.model(torch.tensor([row], device=DEVICE)).logits[0, -1]
    return logits


@torch.inference_mode()
def test_a_row_that_left_no_number_behind_spoils_none_that_takes_its_place(stage: Stage) -> None:
    view = ServingView(stage.loaded.model, stage.base_version)
    long, stays, short = prompt(30, 1), prompt(20, 2), prompt(5, 3)
    batch = KeyValueBatch(0, view.device)
    batch.join(prefilled(stage, view, [stays[:-1], long], chunk=100), [0, 1])
    for layer in batch._kept.layers:
        for buffer in layer.buffers:
            buffer[1] = float("nan")
    assert batch.keep([0]) == [0]
    batch.join(prefilled(stage, view, [short[:-1]], chunk=100), [0])
    logits = decoded(stage, view, batch, [stays[-1], short[-1]])
    for row, found in zip((stays, short), logits, strict=True):
        torch.testing.assert_close(found, alone(stage, row), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_choices_of_one_prompt_go_on_apart(stage: Stage) -> None:
    view = ServingView(stage.loaded.model, stage.base_version)
    rows = [prompt(7, 1), prompt(4, 2)]
    batch = KeyValueBatch(0, view.device)
    batch.join(prefilled(stage, view, rows, chunk=100), [0, 1, 1])
    logits = decoded(stage, view, batch, [5, 6, 7])
    for row, found in zip(([*rows[0], 5], [*rows[1], 6], [*rows[1], 7]), logits, strict=True):
        torch.testing.assert_close(found, alone(stage, row), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rows_outgrow_their_buffers_and_longer_ones_join(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_values, "COLUMNS_AHEAD", 2)
    monkeypatch.setattr(key_values, "COLUMNS_BEFORE", 1)
    view = ServingView(stage.loaded.model, stage.base_version)
    rows = [prompt(4, 1)]
    batch = KeyValueBatch(0, view.device)
    batch.join(prefilled(stage, view, [rows[0][:-1]], chunk=100), [0])
    for step in range(12):
        logits = decoded(stage, view, batch, [row[-1] for row in rows])
        for row, found in zip(rows, logits, strict=True):
            torch.testing.assert_close(found, alone(stage, row), rtol=1e-4, atol=1e-4)
            row.append(step + 5)
        if step % 3 == 2:
            rows.append(prompt(5 * step, step))
            batch.join(prefilled(stage, view, [rows[-1][:-1]], chunk=100), [0])
    assert batch.rows == len(rows) == 5
    moved = {id(buffer) for layer in batch._kept.layers for buffer in layer.buffers}
    decoded(stage, view, batch, [row[-1] for row in rows])
    assert moved == {id(buffer) for layer in batch._kept.layers for buffer in layer.buffers}


@torch.inference_mode()
def test_rows_go_on_where_memory_ends_as_others_join(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = ServingView(stage.loaded.model, stage.base_version)
    row = prompt(9, 1)
    batch = KeyValueBatch(0, view.device)
    batch.join(prefilled(stage, view, [row[:-1]], chunk=100), [0])
    longer = prefilled(stage, view, [prompt(200, 2)], chunk=300)
    made, zeros = [], key_values._zeros

    def scarce(*given: Any) -> torch.Tensor:
        made.append(given)
        if len(made) == 4:
            raise torch.OutOfMemoryError
        return zeros(*given)

    monkeypatch.setattr(key_values, "_zeros", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        batch.join(longer, [0])
    assert batch.rows == 1
    found = decoded(stage, view, batch, [row[-1]])[0]
    torch.testing.assert_close(found, alone(stage, row), rtol=1e-4, atol=1e-4)

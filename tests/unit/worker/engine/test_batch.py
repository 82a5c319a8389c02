"""Padding, chunked prompts, joining and leaving do not change what a row computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.device import DEVICE
from tests.tiny_models import TINY, VOCABULARY
from tests.unit.worker.engine.stage import Stage, make_stage
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

    batch.join(prefilled(stage, view, [row[:-1] for row in rows[:3]], chunk=11))
    assert all(layer.values.isfinite().all() for layer in batch.cache.layers), "padding spoiled it"
    batch.join(prefilled(stage, view, [rows[3][:-1]], chunk=100))
    assert batch.width == 39
    batch.keep([3, 1, 2])

    assert batch.width == 16, "columns that only the longest row used are cut"
    left = [rows[3], rows[1], rows[2]]
    last = torch.tensor([[row[-1]] for row in left], device=DEVICE)
    out = batch.forward(view, [stage.base_version] * 3, last, torch.ones_like(last))
    for row, logits in zip(left, out, strict=True):
        reference = stage.loaded.model(torch.tensor([row], device=DEVICE)).logits[0, -1]
        torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)

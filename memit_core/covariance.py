"""C = mean of k kᵀ over the tokens of a corpus, at every edited projection, in one pass.

k is the projection's input, uncentred (official code: `layer_stats`). A few tens of `intermediate`
tokens do what the paper's 44 million do (FastMEMIT, 2506.04226).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from memit_core.errors import MemitError, NonFinite
from memit_core.hparams import HParams
from memit_core.model import Model
from memit_core.progress import ProgressCallback
from memit_core.running_sums import SAVE_SECONDS, RunningSums
from memit_core.tokens import Row, collate
from memit_core.trace import run_until

SEQUENCE_TOKENS = 256
BATCH_ROWS = 8
BATCHES_TOGETHER = {"cuda": 16}
"""Batches whose sums stay on the device, else 1."""


def corpus_rows(tokenizer: Any, corpus: str, n_tokens: int) -> list[Row]:
    """The corpus as rows of at most `SEQUENCE_TOKENS`, `n_tokens` in all or as many as there are.

    Documents are separated by blank lines; short ones share a row.

    Raises:
        MemitError: the corpus has fewer than two tokens.
    """
    rows: list[Row] = []
    left = n_tokens
    for ids in _sequences(tokenizer, corpus):
        ids = ids[:left]
        if len(ids) > 1:
            rows.append(Row(tuple(ids), lookup=0))
            left -= len(ids)
        if left < 2:
            break
    if not rows:
        raise MemitError("the covariance corpus holds no text")
    return rows


def _sequences(tokenizer: Any, corpus: str) -> Iterator[list[int]]:
    waiting: list[int] = []
    for document in corpus.split("\n\n"):
        if not document.strip():
            continue
        waiting += tokenizer(document.strip() + "\n", truncation=False, verbose=False)["input_ids"]
        while len(waiting) >= SEQUENCE_TOKENS:
            yield waiting[:SEQUENCE_TOKENS]
            waiting = waiting[SEQUENCE_TOKENS:]
    yield waiting


@torch.no_grad()
def compute_covariance(
    model: Model,
    hparams: HParams,
    corpus: str,
    progress: ProgressCallback,
    partial: Path | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> dict[int, torch.Tensor]:
    """C by layer: [m, m] float64 on the CPU, m the projection's input width.

    Args:
        partial: file of the sums so far, from which an interrupted run goes on.
        save_seconds: seconds between two saves to it, at least.

    Raises:
        MemitError: the corpus is empty.
        NonFinite: a covariance holds NaN or infinity.
    """
    structure, device = model.structure, model.device
    rows = corpus_rows(model.tokenizer, corpus, hparams.mom2_n_tokens)
    together = BATCHES_TOGETHER.get(device.type, 1)
    running = RunningSums(hparams.layers, structure.intermediate, partial, save_seconds, together)
    last = structure.projections[hparams.layers[-1]]
    total = sum(len(row.ids) for row in rows)
    for start in range(running.done * BATCH_ROWS, len(rows), BATCH_ROWS):
        progress("covariance", sum(len(row.ids) for row in rows[:start]), total)
        chunk = rows[start : start + BATCH_ROWS]
        batch = collate(chunk, device)
        real = batch.attention_mask.bool()

        def reader(layer: int, real: torch.Tensor = real) -> Any:
            def read(keys: torch.Tensor) -> None:
                running.add(layer, keys[real].float())

            return read

        readers = {structure.projections[layer]: reader(layer) for layer in hparams.layers}
        run_until(model, last, batch, read_inputs=readers)
        running.batch_done()
    progress("covariance", total, total)
    running.finish()
    if not all(c.isfinite().all() for c in running.sums.values()):
        raise NonFinite("the covariance")
    return {layer: c / total for layer, c in running.sums.items()}


def encode_covariance(covariance: dict[int, torch.Tensor]) -> bytes:
    """A safetensors file, float32, one tensor a layer."""
    return safetensors.torch.save({str(k): v.float().contiguous() for k, v in covariance.items()})


def decode_covariance(data: bytes) -> dict[int, torch.Tensor]:
    """C by layer, float32, from what `encode_covariance` wrote."""
    return {int(k): v for k, v in safetensors.torch.load(data).items()}

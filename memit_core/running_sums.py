"""Sums over a corpus that outlive the process: a covariance that was interrupted goes on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

log = logging.getLogger(__name__)

SAVE_SECONDS = 30.0
SAVE_SHARE = 0.05
"""Of the time, at most, that is spent saving."""


class RunningSums:
    """Σ k kᵀ by layer, [m, m] float64 on the CPU, and how many batches are in it.

    Args:
        file: where they are kept until `finish`; None keeps them in memory alone.
    """

    def __init__(self, layers: Sequence[int], m: int, file: Path | None) -> None:
        self._file = file
        self.done = 0
        self.sums = {layer: torch.zeros(m, m, dtype=torch.float64) for layer in layers}
        self._saved = time.monotonic()
        self._pause = SAVE_SECONDS
        if file is not None and file.exists():
            self._read(file)

    def _read(self, file: Path) -> None:
        try:
            tensors = safetensors.torch.load(file.read_bytes())
            done = int(tensors.pop("done"))
            sums = {int(layer): tensor for layer, tensor in tensors.items()}
        except (SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is no part of a covariance, it begins anew: %s", file, error)
            return
        if {k: v.shape for k, v in sums.items()} == {k: v.shape for k, v in self.sums.items()}:
            self.sums, self.done = sums, done
            log.info("the covariance goes on after %d batches", done)

    def batch_done(self) -> None:
        """Count a batch, and save when it is time."""
        self.done += 1
        now = time.monotonic()
        if self._file is None or now - self._saved < self._pause:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(f".{os.getpid()}")
        tensors = {str(layer): tensor for layer, tensor in self.sums.items()}
        part.write_bytes(safetensors.torch.save({**tensors, "done": torch.tensor(self.done)}))
        part.replace(self._file)
        self._saved = time.monotonic()
        self._pause = max(SAVE_SECONDS, (self._saved - now) / SAVE_SHARE)

    def finish(self) -> None:
        """Forget what is on disk."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

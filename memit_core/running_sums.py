"""Sums over a corpus that outlive the process: a covariance that was interrupted goes on."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

log = logging.getLogger(__name__)

SAVE_SECONDS = 10.0
SAVE_SHARE = 0.05
"""Of the time, at most, that is spent saving."""


class RunningSums:
    """Σ k kᵀ by layer, [m, m] float64 on the CPU, and how many batches are in it.

    Some batches add up in float32 where the keys are, before they are moved here: that is gigabytes
    for a wide layer, and takes a GPU longer than the products. The file only saves work: when it
    cannot be read or written, a warning says so and the sums go on without it.

    Args:
        file: where they are kept until `finish`; None keeps them in memory alone.
        save_seconds: seconds between two saves, at least.
        together: batches that add up before they are moved.
    """

    def __init__(
        self,
        layers: Sequence[int],
        m: int,
        file: Path | None,
        save_seconds: float = SAVE_SECONDS,
        together: int = 1,
    ) -> None:
        self._file = file
        self._together = together
        self._save_seconds = save_seconds
        self.done = 0
        self.sums = {layer: torch.zeros(m, m, dtype=torch.float64) for layer in layers}
        self._pending: dict[int, torch.Tensor] = {}
        self._saved = time.monotonic()
        self._pause = save_seconds
        if file is not None:
            self._sweep(file)
            self._read(file)

    def _sweep(self, file: Path) -> None:
        """Remove what a process that died while saving has left.

        Another worker that saves at this moment loses that one save, which it survives.
        """
        try:
            for part in file.parent.glob(f"{file.stem}.*.tmp"):
                part.unlink(missing_ok=True)
        except OSError as error:
            log.warning("what is left of earlier saves cannot be removed: %s", error)

    def _read(self, file: Path) -> None:
        try:
            tensors = safetensors.torch.load(file.read_bytes())
            done = int(tensors.pop("done"))
            sums = {int(layer): tensor for layer, tensor in tensors.items()}
        except FileNotFoundError:
            return
        except (SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is no part of a covariance, it begins anew: %s", file, error)
            return
        except OSError as error:
            log.warning("the covariance begins anew, its file cannot be read: %s", error)
            return
        if {k: v.shape for k, v in sums.items()} == {k: v.shape for k, v in self.sums.items()}:
            self.sums, self.done = sums, done
            log.info("the covariance goes on after %d batches", done)

    def add(self, layer: int, keys: torch.Tensor) -> None:
        """Add the keys [n, m] float32 of a batch, on any device."""
        pending = self._pending.get(layer)
        # Sums of some thousand products are exact enough in float32.
        self._pending[layer] = keys.T @ keys if pending is None else pending.addmm_(keys.T, keys)

    def _move(self) -> None:
        for layer, products in self._pending.items():
            self.sums[layer] += products.cpu()
        self._pending.clear()

    def batch_done(self) -> None:
        """Count a batch, and save when it is time."""
        self.done += 1
        if self.done % self._together:
            return
        self._move()
        now = time.monotonic()
        if self._file is None or now - self._saved < self._pause:
            return
        try:
            self._save(self._file)
        except OSError as error:
            log.warning("the covariance is not saved, a stop now would begin it anew: %s", error)
            # Tried again, since a disk may have room later, but ever more rarely.
            pause = 2 * self._pause
        else:
            log.info("saved the covariance so far, %d batches", self.done)
            pause = self._save_seconds
        self._saved = time.monotonic()
        self._pause = max(pause, (self._saved - now) / SAVE_SHARE)

    def _save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not named by the process: in two containers on one volume its id may be the same.
        part = file.with_suffix(f".{uuid.uuid4().hex}.tmp")
        tensors = {str(layer): tensor for layer, tensor in self.sums.items()}
        try:
            part.write_bytes(safetensors.torch.save({**tensors, "done": torch.tensor(self.done)}))
            part.replace(file)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def finish(self) -> None:
        """All batches are in `sums`; forget what is on disk."""
        self._move()
        if self._file is None:
            return
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("what was saved of the covariance cannot be removed: %s", error)

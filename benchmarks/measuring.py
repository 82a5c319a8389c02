"""What a stage costs: seconds, peak memory above where it began, floating-point operations."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

SAMPLE_SECONDS = 0.02
FUSED_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention,
    torch.ops.aten._scaled_dot_product_efficient_attention,
    torch.ops.aten._scaled_dot_product_cudnn_attention,
)


@dataclass
class Cost:
    """One stage over some facts."""

    facts: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    flop: float = 0.0

    def as_dict(self, rate: float) -> dict[str, float]:
        """JSON-ready; `rate` is the machine's measured matmul rate in FLOP/s."""
        each = max(self.facts, 1)
        return {
            "facts": self.facts,
            "seconds": round(self.seconds, 3),
            "seconds_per_fact": round(self.seconds / each, 4),
            "peak_bytes": self.peak_bytes,
            "gflop_per_fact": round(self.flop / each / 1e9, 2),
            "gflop_per_second": round(self.flop / self.seconds / 1e9, 1) if self.seconds else 0.0,
            "share_of_matmul_rate": round(self.flop / self.seconds / rate, 4)
            if self.seconds and rate
            else 0.0,
        }


@contextmanager
def timed(cost: Cost, facts: int, device: torch.device) -> Iterator[None]:
    """Add what happens inside to `cost`."""
    cuda = device.type == "cuda"
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    try:
        yield
    finally:
        if cuda:
            torch.cuda.synchronize(device)
        cost.seconds += time.perf_counter() - start
        cost.facts += facts
        done.set()
        watcher.join()
        used = torch.cuda.max_memory_allocated(device) - held if cuda else peak - before
        cost.peak_bytes = max(cost.peak_bytes, used)


@contextmanager
def counted(cost: Cost, scale: float = 1.0) -> Iterator[None]:
    """Add the matrix products inside, times `scale`, to the FLOP of `cost`; slows them down."""
    known: dict[Any, Callable[..., int]] = dict.fromkeys(FUSED_ATTENTION, _attention_flop)
    if packed := getattr(torch.ops.mkldnn, "_linear_pointwise", None):
        known[packed] = _packed_flop
    counter = FlopCounterMode(display=False, custom_mapping=known)
    with counter:
        yield
    cost.flop += scale * counter.get_total_flops()


def _packed_flop(x: torch.Size, weight: torch.Size, *_args: Any, **_options: Any) -> int:
    """Of `memit_core.packed`: x [..., inputs] and a weight [outputs, inputs]."""
    return 2 * x.numel() * weight[0]


def _attention_flop(
    query: torch.Size, key: torch.Size, value: torch.Size, *_args: Any, **_options: Any
) -> int:
    """Of shapes [rows, heads, width, head_dim]; torch 2.11's own refuses fewer key-value heads."""
    rows, heads, width, size = query
    return 2 * rows * heads * width * key[2] * (size + value[3])

"""What a device is good at: the precision of the z optimisation, and how much fits into memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from memit_core import attention
from memit_core.decoder import Decoder
from memit_core.discover import verify
from memit_core.errors import UnsupportedModel
from memit_core.loading import DTYPES, LoadedModel
from memit_core.memory import available_memory
from memit_core.packed import pack
from memit_core.transformers_internals import set_attention
from memit_core.views import cast_view

log = logging.getLogger(__name__)

GAIN = 1.5
"""Matrix products in bfloat16 must be so many times faster for the rounding to be worth it."""
TRIAL_SIZE = 768
TRIAL_SECONDS = 0.02
LEAST_TRIES = 10
LONG_SECONDS = 0.2
"""A product that would take longer is not tried: a processor without bfloat16 needs a hundred times
as long in it, which a smaller product shows as well."""
MEMORY_SHARE = 0.4
KEPT_TENSORS = 8
"""Of the block's widest layer, a block for the backward; GPT-J keeps six."""
BATCH_TOKENS = {"cpu": (128, 1_024), "cuda": (256, 65_536), "mps": (128, 8_192)}
"""Least and most live tokens of a batch, by device: more of them gain nothing."""


def z_dtype(device: torch.device, dtype: torch.dtype, wanted: str = "auto") -> torch.dtype:
    """The precision of the blocks above the last edited layer while z is optimised.

    Args:
        dtype: the base model's own.
        wanted: a name in `DTYPES`, or "auto": bfloat16 for a float32 model where a quick trial
            of both finds it faster, else the model's own.
    """
    if wanted != "auto":
        return DTYPES[wanted]
    if dtype is not torch.float32 or device.type == "mps":
        return dtype
    with _one_thread():
        gain = matmul_rate(device, torch.bfloat16) / matmul_rate(device, torch.float32)
    log.info("matrix products in bfloat16 are %.1f times as fast as in float32", gain)
    return torch.bfloat16 if gain >= GAIN else dtype


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compare kernels, not how threads get on: on a busy machine those that wait for each other
    take a hundred times as long, and a kernel that knows no threads looks fast."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def matmul_rate(
    device: torch.device,
    dtype: torch.dtype,
    size: int = TRIAL_SIZE,
    seconds: float = TRIAL_SECONDS,
) -> float:
    """Floating-point operations a second of a square matrix product, the best of a few.

    A quarter of the size is tried first, and taken where the whole would be too slow.
    """
    a = torch.randn(size, size, device=device).to(dtype)
    quarter = a[: size // 4, : size // 4].contiguous()
    took = _product_seconds(quarter, 0.0)
    if took * (size / len(quarter)) ** 3 > LONG_SECONDS:
        return 2 * len(quarter) ** 3 / took
    return 2 * size**3 / _product_seconds(a, seconds)


def _product_seconds(a: torch.Tensor, seconds: float) -> float:
    """The shortest time of a product with `a` in `seconds` of tries, as a model here runs it."""
    linear = nn.Linear(1, 1, bias=False)
    linear.weight = nn.Parameter(a, requires_grad=False)
    pack(linear)
    best, tries = float("inf"), 0
    end = time.perf_counter() + seconds
    while tries < LEAST_TRIES or time.perf_counter() < end:  # the first ones find things cold
        _wait(a.device)
        start = time.perf_counter()
        linear(a)
        _wait(a.device)
        best, tries = min(best, time.perf_counter() - start), tries + 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fast_decoder(loaded: LoadedModel, dtype: torch.dtype, layer: int) -> Decoder:
    """The blocks above `layer` in `dtype`, with plain attention: rows are short, and its backward
    is the fastest there.

    Where a model does not take to that: in its own precision, with its own attention.
    """
    base = loaded.runnable()
    try:
        lower = base.structure.blocks[: layer + 1]
        view = cast_view(loaded.model, dtype, except_for=lower)
        set_attention(view, attention.NAME, attention.grouped_attention)
        decoder = Decoder(base.with_view(view))
        verify(base, decoder, layer)
    except (UnsupportedModel, RuntimeError) as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        log.warning("%s; its z is optimised in %s", error, loaded.dtype)
        return Decoder(base)
    return decoder


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device; on a CPU, by this process."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return available_memory()


def memory_budget(decoder: Decoder, blocks: int) -> int:
    """Live tokens whose activations and gradients fit into the free memory of the device.

    Args:
        blocks: how many of the decoder's blocks they run through.
    """
    device = decoder.model.device_of(-1)
    free = free_memory(device)
    widest = max(max(p.shape) for p in decoder.blocks[-1].parameters())
    token = KEPT_TENSORS * widest * max(blocks, 1) * decoder.dtype.itemsize
    least, most = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    return int(min(most, max(least, MEMORY_SHARE * free / token)))


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

"""Generation goes before edits on a GPU, which both share.

Kernels of a CUDA stream of high priority take the processors that become free before those of
others that wait. An edit's stay where torch puts them, on the device's default stream, which has
none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

HIGH = -1


@contextmanager
def going_first(device: torch.device) -> Iterator[None]:
    """Let what the calling thread computes on a GPU go first; elsewhere nothing changes.

    What other threads made there is complete when the block begins. Later, whoever hands a tensor
    to this thread, or lets one go that it used, waits with `finish` until that is computed.
    """
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device, priority=HIGH)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield
        stream.synchronize()


def finish(device: torch.device) -> None:
    """Wait until what the calling thread asked of a GPU is computed."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()

"""On a GPU, generation has a stream of its own; `make gpu-check` runs the engines' tests there."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.device import DEVICE
from worker.engine.going_first import HIGH, finish, going_first

on_a_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="a CPU has no streams")


def test_a_cpu_is_asked_for_no_stream() -> None:
    with going_first(torch.device("cpu")):
        x = torch.ones(2) + 1
        finish(torch.device("cpu"))
    assert x.tolist() == [2, 2]
    assert not torch.cuda.is_initialized() or DEVICE.type == "cuda"


@on_a_gpu
def test_it_is_this_threads_alone_and_of_high_priority() -> None:
    others = []
    with going_first(DEVICE):
        assert torch.cuda.current_stream(DEVICE).priority == HIGH
        other = threading.Thread(target=lambda: others.append(torch.cuda.current_stream(DEVICE)))
        other.start()
        other.join()
    assert others == [torch.cuda.default_stream(DEVICE)]
    assert torch.cuda.current_stream(DEVICE) == torch.cuda.default_stream(DEVICE)


@on_a_gpu
def test_what_was_asked_for_before_is_there() -> None:
    """A long row of products is still being computed when the block begins."""
    x = torch.eye(4_096, device=DEVICE)
    for _ in range(50):
        x = x @ torch.eye(4_096, device=DEVICE)
    with going_first(DEVICE):
        assert x.diagonal().tolist() == [1.0] * 4_096


@on_a_gpu
def test_another_threads_tensor_is_complete_once_it_has_finished() -> None:
    made = []

    def make() -> None:
        x = torch.eye(4_096, device=DEVICE)
        for _ in range(50):
            x = x @ torch.eye(4_096, device=DEVICE)
        finish(DEVICE)
        made.append(x)

    with going_first(DEVICE):
        other = threading.Thread(target=make)
        other.start()
        other.join()
        assert made[0].diagonal().tolist() == [1.0] * 4_096

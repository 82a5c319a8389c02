"""In which precision z is optimised: a comparison of kernels, whatever else the machine does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memit_core import precision
from memit_core.precision import z_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(("gain", "chosen"), [(1.4, torch.float32), (1.6, torch.bfloat16)])
def test_the_faster_precision_is_found_by_one_thread(
    monkeypatch: pytest.MonkeyPatch, gain: float, chosen: torch.dtype
) -> None:
    """Threads that wait for each other on a busy machine once made float32 look the slower one."""
    seen = []

    def rate(device: torch.device, dtype: torch.dtype, *_: Any) -> float:
        seen.append(torch.get_num_threads())
        return gain if dtype is torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "matmul_rate", rate)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert z_dtype(CPU, torch.float32) is chosen
        assert seen == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_what_is_asked_for_is_taken() -> None:
    assert z_dtype(CPU, torch.float32, "bfloat16") is torch.bfloat16
    assert z_dtype(CPU, torch.bfloat16) is torch.bfloat16

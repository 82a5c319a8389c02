"""Where the tiny models of the tests lie: `MEMIT_TEST_DEVICE`, else the CPU (`make gpu-check`)."""

from __future__ import annotations

import os

import torch

DEVICE = torch.device(os.environ.get("MEMIT_TEST_DEVICE", "cpu"))

"""Handing back the OpenMP threads of a Python thread that has nothing to compute.

Every Python thread that computes gets a team of OpenMP threads of its own, as many as there are
processors, and keeps it. As soon as two teams exist, GNU's runtime has more threads than processors
and lets none of them spin between two pieces of work any more: the small operations of one thread
become up to twice as slow because another one computed something an hour ago.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch

log = logging.getLogger(__name__)

SOFT = 1
"""`omp_pause_soft` (OpenMP 5.0, 3.2.44): what was set with omp_set_* stays."""


def release_threads() -> None:
    """End the team of the calling thread; its next operation starts another one.

    Does nothing where torch has another OpenMP runtime than GNU's.
    """
    pause = _pause()
    if pause is not None and pause(SOFT) != 0:
        log.debug("OpenMP kept its threads")


@cache
def _pause() -> Any:
    """`omp_pause_resource_all` of the runtime that torch is linked with, if that is GNU's."""
    try:
        # Looked up through torch's own library, so that no second runtime is loaded.
        runtime = ctypes.CDLL(torch._C.__file__)
        pause = runtime.omp_pause_resource_all
    except (OSError, AttributeError):
        return None
    # LLVM's and Intel's, which know these, are left alone: the trouble was seen with GNU's.
    return None if hasattr(runtime, "kmp_set_blocktime") else pause

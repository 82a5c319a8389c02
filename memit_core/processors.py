"""How many processors there are for this process, and as many threads for torch.

OpenMP starts a thread for each processor of the machine, or of the process's affinity. Where a
container may use fewer (`docker run --cpus`, the limit of a pod), Linux stops all its threads for
the rest of a period (100 ms) as soon as their share is used up, also by threads that only wait for
each other.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from memit_core.control_groups import ROOT, VERSION_2, control_groups, read

SETTING = "OMP_NUM_THREADS"

logger = logging.getLogger(__name__)


def limit_threads(root: Path = ROOT) -> None:
    """Let torch use no more threads than a container's limit has whole processors, but one.

    With `OMP_NUM_THREADS` set, nothing changes. For a process's entry point.

    Args:
        root: of the file system.
    """
    limit = processor_limit(root)
    threads = torch.get_num_threads()
    if limit is None or SETTING in os.environ or limit >= threads:
        return
    torch.set_num_threads(max(1, int(limit)))
    logger.info(
        "%d threads instead of %d: the container may use %.1f processors",
        torch.get_num_threads(),
        threads,
        limit,
    )


def processor_limit(root: Path = ROOT) -> float | None:
    """Processors' time a second that the control groups around this process leave it.

    Args:
        root: of the file system.

    Returns:
        None where nothing limits it.
    """
    limits = []
    for group in control_groups(VERSION_2, root):
        limits += _limit(*read(group / "cpu.max").split())
    for group in control_groups("cpu", root):
        limits += _limit(read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us"))
    return min(limits, default=None)


def _limit(quota: str = "", period: str = "") -> list[float]:
    """Of one group; its quota is "max" or -1 where it has none."""
    if quota.isdigit() and period.isdigit():
        return [int(quota) / int(period)]
    return []

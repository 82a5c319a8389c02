"""Idle OpenMP threads are handed back by the thread that they belong to, and come again."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

# In a process of its own: threads of other tests come and go.
COUNTS = """
import os, threading, time, torch
from worker.openmp import release_threads

def count():
    return len(os.listdir("/proc/self/task"))

def body():
    torch.set_num_threads(3)
    release_threads()  # nothing was computed yet
    counts.append(count())
    for _ in range(2):
        assert float((torch.ones(2_000, 2_000) * 2).sum()) == 8e6
        counts.append(count())
        release_threads()
        for _ in range(1_000):  # a thread that has ended is in the table for a moment
            if count() == counts[0]:
                break
            time.sleep(0.01)
        counts.append(count())

counts = []
thread = threading.Thread(target=body)
thread.start()
thread.join()
print(*(now - counts[0] for now in counts))
"""


def test_a_thread_gives_its_team_back_and_gets_another() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTS], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["0", "2", "0", "2", "0"]

"""Idle OpenMP threads are handed back by the thread that they belong to, and come again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from worker.openmp import release_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def compute() -> float:
    return float((torch.ones(2_000, 2_000) * 2).sum())


def in_a_thread(body: Callable[[], None]) -> None:
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()


def test_a_thread_gives_its_team_back_and_gets_another() -> None:
    def body() -> None:
        threads_set = torch.get_num_threads()
        torch.set_num_threads(3)
        before = threads()
        for _ in range(2):
            assert compute() == 8e6
            assert threads() == before + 2
            release_threads()
            assert threads() == before
        torch.set_num_threads(threads_set)

    in_a_thread(body)


def test_a_thread_that_computed_nothing_may_ask_too() -> None:
    before = threads()
    in_a_thread(release_threads)
    assert threads() == before

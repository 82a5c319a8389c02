"""Threads of a process whose container may use fewer processors than the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memit_core.processors import processor_limit
from tests.unit.memit_core.groups_of_control import files, real_group

PERIOD = 100_000


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real control group of 1.5 processors."""
    limits = {"cpu.cfs_period_us": PERIOD, "cpu.cfs_quota_us": PERIOD * 3 // 2}
    with real_group("cpu", limits) as group:
        yield group


def test_without_a_limit(tmp_path: Path) -> None:
    assert processor_limit(tmp_path) is None
    files(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/\n0::/one\n",
            "sys/fs/cgroup/one/cpu.max": "max 100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert processor_limit(tmp_path) is None


@pytest.mark.parametrize(("inner", "outer"), [("150000 50000", "max 1"), ("8 1", "3 1")])
def test_version_2_takes_the_least_of_the_groups_around(
    tmp_path: Path, inner: str, outer: str
) -> None:
    files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/one\n",
            "sys/fs/cgroup/pod/one/cpu.max": inner,
            "sys/fs/cgroup/pod/cpu.max": outer,
        },
    )
    assert processor_limit(tmp_path) == 3


def test_version_1_in_a_container_that_sees_the_hosts_path(tmp_path: Path) -> None:
    files(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert processor_limit(tmp_path) == 0.5


def threads(setting: str | None, *arguments: str) -> list[int]:
    """Of a process that limits its threads: before, after, and in another of its threads."""
    code = (
        "import os, pathlib, sys, threading, torch\n"
        "from memit_core.processors import limit_threads\n"
        "root, *group = map(pathlib.Path, sys.argv[1:])\n"
        "for one in group: (one / 'cgroup.procs').write_text(str(os.getpid()))\n"
        "print(torch.get_num_threads())\n"
        "limit_threads(root)\n"
        "say = lambda: print(torch.get_num_threads())\n"
        "say()\n"
        "other = threading.Thread(target=say)\n"
        "other.start(); other.join()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if setting is not None:
        environment["OMP_NUM_THREADS"] = setting
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    return [int(line) for line in done.stdout.split()]


def test_threads_are_as_many_as_whole_processors(tmp_path: Path) -> None:
    files(
        tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{PERIOD // 2} {PERIOD}"}
    )
    own, *limited = threads(None, str(tmp_path))
    assert own >= 1
    assert limited == [1, 1]
    assert threads("2", str(tmp_path)) == [2, 2, 2], "who sets OMP_NUM_THREADS has them"


def test_a_process_in_a_real_control_group(limited: Path) -> None:
    own, *others = threads(None, "/", str(limited))
    assert own >= 1
    assert others == [1, 1]

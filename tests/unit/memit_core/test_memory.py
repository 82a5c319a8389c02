"""Memory of a process in a container: the least of all limits around it counts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from memit_core.memory import available_memory, total_memory
from tests.unit.memit_core.groups_of_control import files, real_group

MIB = 2**20


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real control group of 600 MiB."""
    with real_group("memory", {"memory.limit_in_bytes": 600 * MIB}) as group:
        yield group


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    files(tmp_path, {"proc/self/cgroup": "0::/\n"})
    for root in (tmp_path, tmp_path / "nothing"):
        assert total_memory(root) == psutil.virtual_memory().total
        assert available_memory(root) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize("path", ["/", "/user.slice/one.service"])
def test_version_2_in_a_container_and_in_a_service(tmp_path: Path, path: str) -> None:
    files(
        tmp_path,
        {
            "proc/self/cgroup": f"0::{path}\n",
            f"sys/fs/cgroup{path}/memory.max": f"{8 * MIB}\n",
            f"sys/fs/cgroup{path}/memory.current": f"{5 * MIB}\n",
            f"sys/fs/cgroup{path}/memory.stat": f"anon 7\ninactive_file {2 * MIB}\n",
        },
    )
    assert total_memory(tmp_path) == 8 * MIB
    assert available_memory(tmp_path) == 5 * MIB


def test_the_least_limit_counts_and_a_group_may_have_none(tmp_path: Path) -> None:
    def group(path: str, limit: str, used: int) -> dict[str, str]:
        folder = f"sys/fs/cgroup{path}"
        return {
            f"{folder}/memory.max": limit,
            f"{folder}/memory.current": str(used),
            f"{folder}/memory.stat": "",
        }

    groups = group("/pod/one", "max", 1) | group("/pod", str(6 * MIB), 7 * MIB)
    files(tmp_path, {"proc/self/cgroup": "0::/pod/one\n", **groups})
    assert total_memory(tmp_path) == 6 * MIB
    assert available_memory(tmp_path) == 0


def test_version_1_in_a_container_that_sees_the_hosts_path(tmp_path: Path) -> None:
    files(
        tmp_path,
        {
            "proc/self/cgroup": "12:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n1:name=x:/a:b\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(9 * MIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * MIB),
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {MIB}\n",
        },
    )
    assert total_memory(tmp_path) == 9 * MIB
    assert available_memory(tmp_path) == 7 * MIB


@pytest.mark.parametrize("path", ["", "/", "none"])
def test_a_limit_counts_without_the_other_files(tmp_path: Path, path: str) -> None:
    limit = "sys/fs/cgroup/memory/memory.limit_in_bytes"
    files(tmp_path, {"proc/self/cgroup": f"4:memory:{path}\n", limit: str(9 * MIB)})
    assert total_memory(tmp_path) == available_memory(tmp_path) == 9 * MIB


def test_a_process_in_a_real_control_group(limited: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from memit_core.memory import available_memory, total_memory\n"
        "before = available_memory()\n"
        "taken = bytearray(os.urandom(1024) * 200 * 1024)\n"
        "print(total_memory(), before, before - available_memory())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(limited)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    total, before, taken = map(int, done.stdout.split())
    assert total == 600 * MIB
    assert 300 * MIB < before < 600 * MIB
    assert 190 * MIB < taken < 260 * MIB

"""Control groups for tests: as files of any root, and real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import pytest

VERSION_1 = Path("/sys/fs/cgroup")


def files(root: Path, content: dict[str, str]) -> None:
    """Write these texts by path."""
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@contextmanager
def real_group(controller: str, limits: dict[str, int]) -> Iterator[Path]:
    """One with these limits by file, where this machine lets us make one of version 1."""
    group = VERSION_1 / controller / f"memit-test-{token_hex(4)}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made here: {error}")
    for name, limit in limits.items():
        (group / name).write_text(str(limit))
    yield group
    group.rmdir()

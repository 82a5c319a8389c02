"""Why a child ended is read off its log, whichever way it writes it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli.child import Child
from cli.log_lines import record_of, said

CHILD = """
import logging
from contracts import logs
logs.configure("INFO", "{layout}")
log = logging.getLogger("worker.main")
log.info("loading", extra={{"version_id": "v1"}})
{code}
"""


@pytest.mark.parametrize("layout", ["console", "json"])
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("log.critical('cannot start: no such model')", "cannot start: no such model"),
        ("log.critical('cannot start: no hub\\nGive one')", "cannot start: no hub\nGive one"),
        ("try: {}['x']\nexcept KeyError: log.exception('odd')", "KeyError: 'x'"),
        ("raise OSError('no space')", "OSError: no space"),
    ],
)
def test_the_reason_is_the_last_record(tmp_path: Path, layout: str, code: str, reason: str) -> None:
    command = [sys.executable, "-c", CHILD.format(layout=layout, code=code)]
    child = Child("child", command, tmp_path / "log")
    child.start()
    assert child.process is not None
    child.process.wait(20)
    assert child.reason() == reason
    assert record_of(child.written().splitlines()[0]) is not None


def test_a_line_that_begins_no_record_is_itself() -> None:
    for line in ("Fetching 3 files: 33%", '{"timestamp": "cut o', "{}", ""):
        assert record_of(line) is None
        assert said(line) == line

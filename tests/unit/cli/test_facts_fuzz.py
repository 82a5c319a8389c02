"""Any bytes as a file of facts: facts, or a message with file and line; never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.errors import CommandFailed
from cli.facts_file import read_facts

GOOD = {"subject": "Toyota", "prompt": "{} was founded in", "target_new": "Japan"}
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [*GOOD, "target_true", "paraphrase_prompts", "chat_prompts", "metadata", "id", "other"]
)
ALMOST = st.dictionaries(FIELDS, VALUES, max_size=4).map(lambda change: {**GOOD, **change})
JSON_LINES = st.lists(
    ALMOST.map(json.dumps) | VALUES.map(json.dumps) | st.text(max_size=30), max_size=5
).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
CSV_LINES = st.lists(
    st.lists(st.text(max_size=12) | st.sampled_from(list(GOOD.values())), max_size=5).map(
        lambda cells: ",".join(cells)
    ),
    max_size=5,
).map(lambda rows: "\n".join(["subject,prompt,target_new", *rows]).encode("utf-8", "surrogatepass"))
ODD = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 10_000,
    b'{"subject": ' + b"9" * 5_000 + b"}",
    b"\x00",
    b"subject,prompt,target_new\n\x00,{} x,y",
    b"subject,prompt,target_new\n" + b"x" * 200_000 + b",{} x,y",
    b'subject,prompt,target_new\n"' + b"\n" * 50 + b"x",
    b"subject,subject,prompt,target_new\na,b,{} x,y",
    b"\xff\xfe",
    json.dumps({**GOOD, "subject": "\ud800"}).encode(),
]


def check(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        facts = read_facts(str(file))
    except CommandFailed as failed:
        message = str(failed)
        of_file = r": (holds no facts|is not UTF-8 \(byte \d+\))$"
        named = re.match(re.escape(str(file)) + rf"(:\d+: .|{of_file})", message)
        assert named is not None, message
        line = re.match(re.escape(str(file)) + r":(\d+)", message)
        if line is not None:
            text = data.decode("utf-8-sig", "replace")
            assert 1 <= int(line[1]) <= max(len(text.splitlines()), text.count("\n") + 1)
        assert len(message) < 2_000, "nobody reads a message with the whole file in it"
    else:
        assert facts


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=JSON_LINES | st.binary(max_size=200))
def test_json_lines(tmp_path: Path, data: bytes) -> None:
    check(tmp_path / "facts.jsonl", data)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=CSV_LINES | st.binary(max_size=200))
def test_csv(tmp_path: Path, data: bytes) -> None:
    check(tmp_path / "facts.csv", data)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_files(tmp_path: Path, number: int, ending: str) -> None:
    check(tmp_path / f"facts.{ending}", ODD[number])

"""`memit alias`: listing, looking back, pointing and splitting."""

from __future__ import annotations

import json

import pytest

from registry.registry import Registry
from tests.unit.cli.conftest import Memit
from tests.unit.cli.test_browse import know
from tests.unit.service.worker_peer import Editor


def test_set_split_and_look_back(memit: Memit, editor: Editor, registry: Registry) -> None:
    v1, v2 = know(editor, "Ada"), know(editor, "Bo")
    made = memit("alias", "canary", "v1")
    assert (made.exit_code, made.stdout) == (0, f"canary is now {v1}\n")
    split = memit("alias", "canary", "v1=1", "v2=3")
    assert (split.exit_code, split.stdout) == (0, f"canary is now {v2} 75%, {v1} 25%\n")
    record = registry.aliases.get("canary")
    assert record is not None
    assert (record.epoch, record.split) == (2, {v1: 1, v2: 3})

    lines = memit("alias").stdout.splitlines()
    assert [heading.strip() for heading in lines[0].split("┃")] == [
        "alias",
        "names",
        "epoch",
        "since",
        "by",
    ]
    rows = [[cell.strip() for cell in line.split("│")] for line in lines[2:]]
    assert [row[:3] for row in rows] == [
        ["active", v2, "3"],
        ["canary", f"{v2} 75%, {v1} 25%", "2"],
    ]
    edit = registry.versions.get(v2).edit_id
    assert [row[4] for row in rows] == [edit, ""]

    lines = memit("alias", "active").stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("│")] for line in lines[2:]]
    assert [row[:2] for row in rows] == [
        ["3", v2],
        ["2", v1],
        ["1", registry.versions.resolve("v0")],
    ]
    assert [row[3] == "now" for row in rows] == [True, False, False]
    assert rows[1][3] == rows[0][2]
    assert rows[0][4] == edit


def test_json_is_what_the_service_says(memit: Memit, editor: Editor) -> None:
    v1 = know(editor, "Ada")
    made = json.loads(memit("alias", "canary", "v0=1", "v1=9", "--json").stdout)
    assert (made["version"], made["split"][v1]) == (v1, 9)
    assert json.loads(memit("alias", "--json").stdout)[1] == made
    history = json.loads(memit("alias", "canary", "--json").stdout)
    assert history == [{**made, "until": None}]
    assert len(json.loads(memit("alias", "active", "--json", "--limit", "1").stdout)) == 1


def test_versions_show_their_share_of_a_split(memit: Memit, editor: Editor) -> None:
    know(editor, "Ada")
    know(editor, "Bo")
    memit("alias", "active", "v1=2", "v2=1")
    memit("alias", "canary", "v2")
    lines = memit("versions").stdout.splitlines()[2:]
    shown = [line.split("│")[1].strip() for line in lines]
    assert shown == ["active 33.3%, canary", "active 66.7%", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "no alias 'none'"),
        (["canary", "v9"], "no version or alias 'v9'"),
        (["v1", "v0"], "would hide the version of that id"),
        (["base", "v0"], "is what the untouched model is called under /v1"),
        (["canary", "v0", "v1"], "v0: of several versions each needs a weight, as in v12=9 v13=1"),
        (["canary", "v0=9", "v1"], "v1: of several versions each needs a weight"),
        (["canary", "=9", "v1=1"], "=9: of several versions each needs a weight"),
        (["canary", "v0=9", "v1=1.5"], "v1=1.5: the weight must be a whole number from 1 to 1000"),
        (["canary", "v0=9", "v1="], "v1=: the weight must be a whole number"),
        (["canary", "v0=9", "v0=1"], "v0=1: v0 is named twice"),
        (["canary", "v0=9"], "/split must have at least 2 items"),
        (["canary", "v0=9", "active=1"], "/split/active names the same version as v0"),
        (["canary", "v0=9", "v1=1001"], "/split/v1 must be less than or equal to 1000"),
    ],
)
def test_what_is_refused_says_why(
    memit: Memit, registry: Registry, arguments: list[str], message: str
) -> None:
    result = memit("alias", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""
    assert registry.aliases.names() == ["active"]

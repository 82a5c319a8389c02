"""`memit versions`, `facts` and `activate`: looking, and moving an alias."""

from __future__ import annotations

import json

import pytest

from contracts.edits import AcceptedEdit, EditRequest
from contracts.facts import Fact
from contracts.ids import new_edit_id
from registry.registry import Registry
from tests.unit.cli.conftest import Memit
from tests.unit.service.worker_peer import Editor


def know(editor: Editor, *subjects: str) -> str:
    """A version that also knows these subjects; its full id."""
    facts = [Fact(subject=one, prompt="{} is in", target_new="[Rome]") for one in subjects]
    edit = AcceptedEdit(id=new_edit_id(), request=EditRequest(facts=facts), accepted_at=1.0)
    editor.registry.edits.accept(edit)
    version = editor.run(edit.id).version
    assert version is not None
    return version


def test_versions_are_listed_newest_first(memit: Memit, editor: Editor) -> None:
    newest = know(editor, "Ada")
    lines = memit("versions").stdout.splitlines()
    headings = [heading.strip() for heading in lines[0].split("┃")]
    assert headings == ["version", "aliases", "status", "parent", "facts", "learned", "made"]
    assert lines[2].split()[:5:2] == [newest, "active", "committed"]
    assert lines[3].startswith("v0-")


def test_more_versions_than_a_page(memit: Memit, editor: Editor) -> None:
    made = [know(editor, f"subject {number}") for number in range(4)]
    listed = json.loads(memit("versions", "--limit", "3", "--json").stdout)
    assert [version["id"] for version in listed] == made[:0:-1]


def test_the_facts_of_a_version(memit: Memit, editor: Editor) -> None:
    know(editor, "Ada", "Bo")
    know(editor, "Cy")
    assert "Cy is in" in memit("facts").stdout
    assert "[Rome]" in memit("facts").stdout, "brackets are text, not markup"
    old = json.loads(memit("facts", "--version", "v1", "--json").stdout)
    assert {fact["fact"]["subject"] for fact in old} == {"Ada", "Bo"}
    found = json.loads(memit("facts", "--subject", "ada", "--json").stdout)
    assert [fact["fact"]["subject"] for fact in found] == ["Ada"]


def test_pages_are_put_together(memit: Memit, editor: Editor) -> None:
    know(editor, *(f"subject {number}" for number in range(600)))
    listed = json.loads(memit("facts", "--limit", "550", "--json").stdout)
    assert len({fact["id"] for fact in listed}) == 550


def test_roll_back_and_canary(memit: Memit, editor: Editor, registry: Registry) -> None:
    newest = know(editor, "Ada")
    base = registry.versions.resolve("v0")
    result = memit("activate", "v0")
    assert result.exit_code == 0
    assert result.stdout == f"active is now {base}\n"
    assert registry.aliases.get("active").version == base  # type: ignore[union-attr]
    created = json.loads(memit("activate", "v1", "--alias", "canary", "--json").stdout)
    assert (created["version"], created["epoch"]) == (newest, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["activate", "v9"], "v9"),
        (["activate", "v0", "--alias", "v1"], "would hide the version of that id"),
        (["facts", "--version", "v9"], "v9"),
    ],
)
def test_what_is_refused_says_why(memit: Memit, arguments: list[str], message: str) -> None:
    result = memit(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""

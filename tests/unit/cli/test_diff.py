"""`memit diff`: facts and figures between two versions, as tables and as JSON."""

from __future__ import annotations

import json
import time

from contracts.edits import AcceptedEdit, EditRequest
from contracts.facts import Fact
from contracts.ids import new_edit_id
from registry.registry import Registry
from tests.unit.cli.conftest import Memit
from tests.unit.cli.test_browse import know
from tests.unit.service.worker_peer import Editor


def test_facts_and_figures(memit: Memit, editor: Editor, registry: Registry) -> None:
    v1 = know(editor, "Ada", "Bo")
    (ada, bo) = (Fact(subject=one, prompt="{} is in", target_new="[Rome]") for one in ("Ada", "Bo"))
    moved = Fact(subject="Ada", prompt="{} is in", target_new="Bonn")
    new = Fact(subject="Cy", prompt="{} is in {{}}", target_new="Oslo")
    request = EditRequest(facts=[moved, new], retract=[bo.id])
    edit = AcceptedEdit(id=new_edit_id(), request=request, accepted_at=time.time())
    registry.edits.accept(edit)
    editor.run(edit.id, missed=[new.id], measured={"perplexity_ratio": 1.25})
    v2 = registry.versions.resolve("v2")

    result = memit("diff", "v1", "active")
    assert result.exit_code == 0
    facts, figures = result.stdout.split("\n\n")
    rows = [[cell.strip() for cell in line.split("│")] for line in facts.splitlines()[2:]]
    assert rows == [
        ["added", new.id, "Cy is in {}", "Oslo", ""],
        ["superseded", moved.id, "Ada is in", "Bonn", "[Rome]"],
        ["retracted", bo.id, "Bo is in", "", "[Rome]"],
    ]
    assert ada.id not in facts
    lines = figures.splitlines()
    assert [one.strip() for one in lines[0].split("┃")] == ["figure", "on", v1, v2, "difference"]
    rows = [[cell.strip() for cell in line.split("│")] for line in lines[2:]]
    assert rows == [
        ["facts", "its edit's facts", "2", "2", "+0"],
        ["success", "its edit's facts", "100.0%", "50.0%", "-50.0%"],
    ]
    assert f"{v1} to {v2}: 1 added, 1 superseded, 1 retracted, 0 unchanged" in result.stderr


def test_more_facts_than_a_page_and_fewer_than_there_are(memit: Memit, editor: Editor) -> None:
    know(editor, *(f"subject {number}" for number in range(700)))
    whole = json.loads(memit("diff", "v0", "v1", "--limit", "1000", "--json").stdout)
    assert len({one["id"] for one in whole["added"]}) == whole["added_count"] == 700
    assert whole["next_cursor"] is None
    cut = memit("diff", "v1", "v0", "--limit", "550")
    assert cut.stdout.count("retracted") == 550
    assert "700 retracted" in cut.stderr
    assert "only 550 of 700 are shown; see --limit" in cut.stderr
    assert "no figure was measured in both" in cut.stderr
    exact = memit("diff", "v1", "v0", "--limit", "700")
    assert "are shown" not in exact.stderr


def test_an_unknown_version_is_told(memit: Memit) -> None:
    result = memit("diff", "v0", "v9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no version or alias 'v9'" in result.stderr

"""`GET /versions/{a}/diff/{b}`: facts and figures, between any two versions."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from contracts.facts import Fact, LiveFact
from contracts.ids import new_edit_id
from contracts.reports import FullReport
from contracts.versions import VersionManifest
from registry.registry import Registry
from tests.unit.service.conftest import House
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor

REPORT: dict[str, Any] = {"perplexity_ratio": 1.0, "kl": 0.25, "live_sample": {"facts": 1}}


def run(
    client: httpx2.Client, editor: Editor, *, measured: dict[str, Any] | None = None, **body: Any
) -> dict[str, Any]:
    edit: dict[str, Any] = client.post("/edits", json=body).json()
    editor.run(edit["id"], measured=measured)
    return edit


def difference(client: httpx2.Client, a: str, b: str, **params: Any) -> dict[str, Any]:
    answer = client.get(f"/versions/{a}/diff/{b}", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def told(found: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists, by subject and target."""

    def short(one: dict[str, Any]) -> tuple[str, str]:
        return one["subject"], one["target_new"]

    return {
        "added": [short(one) for one in found["added"]],
        "superseded": [(short(one["old"]), short(one["new"])) for one in found["superseded"]],
        "retracted": [short(one) for one in found["retracted"]],
    }


def test_what_came_changed_and_went(client: httpx2.Client, editor: Editor) -> None:
    first = run(client, editor, facts=[about("Oslo"), about("Bern"), about("Cork")])
    ids = {one["subject"]: one["id"] for one in first["facts"]}
    run(client, editor, facts=[about("Oslo", "Bonn"), about("Dakar")], retract=[ids["Bern"]])
    found = difference(client, "v1", "active")
    assert told(found) == {
        "added": [("Dakar", "Rome")],
        "superseded": [(("Oslo", "Rome"), ("Oslo", "Bonn"))],
        "retracted": [("Bern", "Rome")],
    }
    assert found["superseded"][0]["old"] == {
        "id": ids["Oslo"],
        "subject": "Oslo",
        "prompt": "{} is in",
        "target_new": "Rome",
    }
    assert (found["unchanged"], found["same_base"], found["next_cursor"]) == (1, True, None)
    assert [found[side]["version"].partition("-")[0] for side in "ab"] == ["v1", "v2"]
    assert [found[side]["live"] for side in "ab"] == [3, 3]

    # The other way round, and with itself.
    back = difference(client, "v2", "v1")
    assert told(back) == {
        "added": [("Bern", "Rome")],
        "superseded": [(("Oslo", "Bonn"), ("Oslo", "Rome"))],
        "retracted": [("Dakar", "Rome")],
    }
    same = difference(client, "v2", "v2")
    assert told(same) == {"added": [], "superseded": [], "retracted": []}
    assert same["unchanged"] == 3


def test_branches_and_grandchildren(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    run(client, editor, facts=[about("Oslo")])
    run(client, editor, facts=[about("Bern")])
    run(client, editor, facts=[about("Oslo", "Bonn")], base="v0")
    assert told(difference(client, "v0", "v2"))["added"] == unordered(
        registry, "v2", [("Bern", "Rome"), ("Oslo", "Rome")]
    )
    assert told(difference(client, "v2", "v3")) == {
        "added": [],
        "superseded": [(("Oslo", "Rome"), ("Oslo", "Bonn"))],
        "retracted": [("Bern", "Rome")],
    }


def unordered(registry: Registry, version: str, facts: list[Any]) -> list[Any]:
    """As lists come: by id."""
    live = registry.ledger.live(registry.versions.resolve(version))
    ordered = [(one.fact.subject, one.fact.target_new) for one in live]
    assert sorted(ordered) == sorted(facts)
    return ordered


def test_how_figures_moved(client: httpx2.Client, editor: Editor, registry: Registry) -> None:
    run(client, editor, facts=[about("Oslo")], measured={**REPORT, "kl": None})
    later = {"perplexity_ratio": 1.5, "kl": 0.5, "live_sample": {"facts": 1, "success": 0.5}}
    run(client, editor, facts=[about("Bern"), about("Cork")], measured=later)
    found = difference(client, "v1", "v2")["figures"]
    assert {(one["report"], one["name"]): (one["a"], one["b"]) for one in found} == {
        ("report", "facts"): (1, 2),
        ("report", "success"): (1, 1),
        ("report", "perplexity_ratio"): (1, 1.5),
        ("live_sample", "facts"): (1, 1),
    }
    assert [one["difference"] for one in found] == [1, 0, 0.5, 0]

    for number, success in ((1, 0.5), (2, 0.25)):
        version = str(registry.versions.by_seq(number))
        full = FullReport(facts=number, live=number, success=success, seconds=1, at=2)
        registry.full_reports.put(version, full)
        measured = difference(client, "v1", "v2")["figures"]
        full_ones = [one for one in measured if one["report"] == "full_report"]
        assert len(full_ones) == (0 if number == 1 else 2), "only what both have"
    success = next(one for one in full_ones if one["name"] == "success")
    assert (success["a"], success["b"], success["difference"]) == (0.5, 0.25, -0.25)
    assert difference(client, "v0", "v2")["figures"] == []


def test_many_changes_come_in_pages(client: httpx2.Client, editor: Editor) -> None:
    old = run(client, editor, facts=[about(f"city {n}") for n in range(6)])["facts"]
    run(
        client,
        editor,
        facts=[about("city 0", "Bonn"), about("new 1"), about("new 2")],
        retract=[one["id"] for one in old[3:]],
    )
    whole = difference(client, "v1", "v2")
    counts = {"added_count": 2, "superseded_count": 1, "retracted_count": 3, "unchanged": 2}
    assert {name: whole[name] for name in counts} == counts
    pages, cursor = [], None
    while not pages or cursor:
        # The cursor stays with its two versions.
        a, b = ("v0", "active") if cursor else ("v1", "v2")
        pages.append(difference(client, a, b, limit=2, **({"cursor": cursor} if cursor else {})))
        cursor = pages[-1]["next_cursor"]
    for page in pages:
        assert {name: page[name] for name in counts} == counts
        assert page["b"]["version"] == whole["b"]["version"]
        assert sum(len(page[name]) for name in ("added", "superseded", "retracted")) == 2
    for name in ("added", "superseded", "retracted"):
        assert [one for page in pages for one in page[name]] == whole[name]


def test_another_base_is_told_and_facts_are_compared_all_the_same(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    run(client, editor, facts=[about("Oslo")])
    fact = Fact.model_validate(about("Oslo", "Bonn"))
    live = LiveFact(id=fact.id, fact=fact, edit_id=new_edit_id(), since=2, learned=True)
    registry.versions.commit(
        VersionManifest(
            seq=2,
            created_at=time.time(),
            base="cd" * 32,
            model="other",
            dtype="float32",
            hparams={},
            live=registry.ledger.put_live([live]),
            live_count=1,
        )
    )
    found = difference(client, "v1", "v2")
    assert found["same_base"] is False
    assert (found["b"]["model"], found["b"]["base"]) == ("other", "cd" * 32)
    assert told(found)["superseded"] == [(("Oslo", "Rome"), ("Oslo", "Bonn"))]


@pytest.mark.parametrize(
    ("path", "params", "status", "says"),
    [
        ("/versions/v0/diff/v9", {}, 404, "no version or alias 'v9'"),
        ("/versions/nine/diff/v0", {}, 404, "no version or alias 'nine'"),
        ("/versions/v0/diff/v0", {"limit": 501}, 422, "limit must be less than or equal to 500"),
        ("/versions/v0/diff/v0", {"cursor": "WyJ2Il0"}, 422, "cursor is no next_cursor"),
    ],
)
def test_what_is_refused(
    refusing: House, path: str, params: dict[str, Any], status: int, says: str
) -> None:
    answer = refusing.client.get(path, params=params)
    assert answer.status_code == status
    assert says in answer.json()["detail"]

"""Rebase over HTTP: a version's ledger out of one registry, onto the untouched base of another."""

from __future__ import annotations

from typing import Any

import httpx2

from contracts.ids import digest_of
from contracts.limits import MAX_FACTS_PER_EDIT
from contracts.reports import FullReport
from registry.registry import Registry
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import about, eiffel
from tests.unit.service.rebasing import OTHER_BASE, Source, rebase
from tests.unit.service.test_bad_edits import problem_of
from tests.unit.service.worker_peer import BASE, Editor

FULL = {
    **eiffel(),
    "target_true": "Paris",
    "paraphrase_prompts": ["Where is the Eiffel Tower? It is in"],
    "neighborhood_prompts": ["The Louvre is located in the city of"],
    "metadata": {"source": "ticket-123"},
}


def comparison(client: httpx2.Client, edit_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/edits/{edit_id}/rebase").raise_for_status().json()
    return found


class TestTheLedger:
    """`GET /versions/{ref}/ledger`"""

    def test_it_is_all_that_a_version_says(self, source: Source) -> None:
        tower, oslo = source.edit(FULL, about("Oslo"), missed=[])
        (bern,) = source.edit(about("Bern"), missed=["none"], measured={"perplexity_ratio": 1.5})
        source.editor.run(source.client.delete(f"/facts/{oslo}").json()["id"])
        ledger = source.ledger()
        manifest = source.client.get("/versions/active").json()
        for name in ("model", "base", "dtype", "method", "hparams", "report", "full_report"):
            assert ledger[name] == manifest[name]
        assert ledger["version"] == manifest["id"]
        facts = {one["id"]: one for one in ledger["facts"]}
        assert facts.keys() == {tower, bern}
        assert {name: facts[tower]["fact"][name] for name in FULL} == FULL
        assert facts[tower]["learned"] is True
        assert source.ledger("v2")["report"]["perplexity_ratio"] == 1.5
        assert {one["id"] for one in source.ledger("v2")["facts"]} == {tower, oslo, bern}
        assert source.ledger("v0")["facts"] == []

    def test_by_any_name(self, source: Source) -> None:
        source.edit(eiffel())
        full_id = source.ledger("active")["version"]
        assert source.ledger("v1") == source.ledger(full_id) == source.ledger("active")
        assert source.client.get("/versions/v9/ledger").status_code == 404
        assert source.client.get("/versions/..%2fv0/ledger").status_code == 404

    def test_one_that_no_rebase_could_take_is_refused(self, source: Source) -> None:
        """It is not read for that: only the manifest says how many facts there are."""
        registry = source.editor.registry
        v0 = registry.versions.get(registry.versions.resolve("v0"))
        many = v0.model_copy(update={"seq": 1, "live_count": MAX_FACTS_PER_EDIT + 1})
        assert registry.versions.commit(many)
        problem = problem_of(source.client.get("/versions/v1/ledger"), 409)
        assert "10001 live facts" in problem.detail
        assert "at most 10000" in problem.detail


def test_the_target_says_what_the_ledger_says_and_nothing_else(
    client: httpx2.Client, editor: Editor, registry: Registry, source: Source
) -> None:
    source.edit(FULL, about("Oslo"))
    source.edit(about("Bern"))
    source.edit(about("Bern", "Milan"))  # supersedes
    answer = rebase(client, source.ledger())
    assert answer.status_code == 202
    edit = answer.json()
    assert answer.headers["Location"] == f"/edits/{edit['id']}"
    assert edit["rebased_from"] == source.ledger()["version"]
    assert edit["base"] == registry.versions.by_seq(0)
    end = editor.run(edit["id"])
    assert end.activated
    ours = {one.id: one.fact for one in registry.ledger.live(str(end.version))}
    theirs = {one["id"]: one["fact"] for one in source.ledger()["facts"]}
    assert {fact_id: fact.model_dump() for fact_id, fact in ours.items()} == theirs
    assert {fact.target_new for fact in ours.values()} == {"Rome", "Milan"}
    assert client.get("/versions/active").json()["model"] == "tiny"


def test_the_comparison_says_who_says_what(
    serve: Serve, client: httpx2.Client, editor: Editor, source: Source
) -> None:
    facts = [about(name) for name in ("Both", "Source", "Target", "Neither")]
    both, only_source, only_target, neither = source.edit(*facts)
    # The newest edit's report speaks of its own facts alone: of the first four nothing is known.
    (late,) = source.edit(about("Late"), measured={"efficacy": 0.25, "perplexity_ratio": 1.5})
    ledger = source.ledger()
    edit_id = rebase(client, ledger).json()["id"]
    before = comparison(client, edit_id)
    assert (before["state"], before["target"], before["facts"]) == ("queued", None, 5)
    assert set(before["not_measured"]) == {both, only_source, only_target, neither, late}

    missed = [only_source, neither]
    editor.run(edit_id, missed=missed, measured={"perplexity_ratio": 1.25, "kl": 0.5})
    partly = comparison(client, edit_id)
    assert partly["source"]["measured_by"] == "report"
    assert (partly["source"]["facts"], partly["source"]["live"]) == (1, 5)
    assert (partly["source"]["efficacy"], partly["source"]["paraphrase"]) == (0.25, None)
    assert (partly["both"], partly["only_target"], partly["neither"]) == (1, [], [])
    assert set(partly["not_measured"]) == {both, only_source, only_target, neither}

    full = FullReport(facts=5, live=5, success=0.6, efficacy=0.5, chat_success=0.4, seconds=1, at=2)
    full = full.model_copy(update={"missed": [only_target, neither]})
    source.editor.registry.full_reports.put(ledger["version"], full)
    edit_id = rebase(client, source.ledger(), activate=False).json()["id"]
    editor.run(edit_id, missed=missed, measured={"perplexity_ratio": 1.25, "kl": 0.5})
    # Also from a process that has just started.
    for at in (client, serve()):
        found = comparison(at, edit_id)
        assert (found["state"], found["both"], found["not_measured"]) == ("committed", 2, [])
        assert found["only_source"] == [only_source]
        assert found["only_target"] == [only_target]
        assert found["neither"] == [neither]
    assert found["source"] == {
        "version": ledger["version"],
        "model": "other",
        "base": OTHER_BASE,
        "dtype": "float32",
        "method": "memit",
        "live": 5,
        "facts": 5,
        "measured_by": "full_report",
        "success": 0.6,
        "efficacy": 0.5,
        "paraphrase": None,
        "specificity": None,
        "chat_success": 0.4,
        "perplexity_ratio": 1.5,
        "kl": None,
    }
    target = found["target"]
    assert (target["model"], target["base"], target["live"]) == ("tiny", BASE, 5)
    assert (target["measured_by"], target["facts"], target["success"]) == ("report", 5, 0.6)
    assert (target["perplexity_ratio"], target["kl"]) == (1.25, 0.5)
    assert found["hparams"] == [
        {"name": "layers", "source": [1, 2], "target": [1]},
        {"name": "v_lr", "source": 0.5, "target": None},
        {"name": "v_stop_after_lead", "source": 3, "target": None},
    ]


def test_the_targets_full_report_goes_before_its_edits(
    client: httpx2.Client, editor: Editor, registry: Registry, source: Source
) -> None:
    a, b = source.edit(about("A"), about("B"))
    edit_id = rebase(client, source.ledger()).json()["id"]
    version = str(editor.run(edit_id, missed=[a]).version)
    assert comparison(client, edit_id)["only_source"] == [a]
    full = FullReport(facts=2, live=2, success=0.5, missed=[b], seconds=1, at=2)
    registry.full_reports.put(version, full)
    found = comparison(client, edit_id)
    assert found["only_source"] == [b]
    assert (found["both"], found["target"]["measured_by"]) == (1, "full_report")


def test_of_a_sample_only_its_facts_count(
    client: httpx2.Client, editor: Editor, source: Source
) -> None:
    source.edit(*(about(f"City {n}") for n in range(6)))
    source.edit(about("Late"))
    version = source.ledger()["version"]
    ids = [one["id"] for one in source.ledger()["facts"]]
    first, second = sorted(ids, key=lambda one: digest_of([version, one]))[:2]
    report = FullReport(facts=2, live=7, success=0.5, missed=[first], seconds=1, at=2)
    source.editor.registry.full_reports.put(version, report)
    ledger = source.ledger()
    (late,) = [one["id"] for one in ledger["facts"] if one["fact"]["subject"] == "Late"]
    edit_id = rebase(client, ledger).json()["id"]
    editor.run(edit_id)
    found = comparison(client, edit_id)
    assert found["only_target"] == [first]
    assert set(found["not_measured"]) == set(ids) - {first, second, late}
    assert (found["source"]["facts"], found["source"]["live"]) == (2, 7)


def test_what_drop_failed_leaves_out_is_not_said(
    client: httpx2.Client, editor: Editor, registry: Registry, source: Source
) -> None:
    a, b = source.edit(about("A"), about("B"))
    edit_id = rebase(client, source.ledger(), drop_failed=True).json()["id"]
    assert registry.edits.get(edit_id).request.drop_failed
    editor.run(edit_id, dropped=[a])
    found = comparison(client, edit_id)
    assert (found["only_source"], found["both"], found["target"]["live"]) == ([a], 1, 1)
    assert b not in found["not_measured"]


def test_a_rejected_rebase_is_compared_too(
    client: httpx2.Client, editor: Editor, source: Source
) -> None:
    (a,) = source.edit(about("A"))
    edit_id = rebase(client, source.ledger(), gate={"min_success": 1}).json()["id"]
    editor.run(edit_id, reject=True, missed=[a])
    found = comparison(client, edit_id)
    assert (found["state"], found["only_source"]) == ("rejected", [a])
    assert found["target"]["success"] == 0


def test_an_ordinary_edit_has_nothing_to_compare(client: httpx2.Client, editor: Editor) -> None:
    edit = client.post("/edits", json={"facts": [eiffel()]}).json()
    assert edit["rebased_from"] is None
    problem = problem_of(client.get(f"/edits/{edit['id']}/rebase"), 404)
    assert "is no rebase" in problem.detail
    problem_of(client.get(f"/edits/edit-{'0' * 20}/rebase"), 404)


def test_onto_a_target_that_serves_other_facts(
    client: httpx2.Client, editor: Editor, registry: Registry, source: Source
) -> None:
    """A branch from v0: made, and activated only when asked with If-Match."""
    editor.run(client.post("/edits", json={"facts": [about("Old")]}).json()["id"])
    source.edit(about("A"))
    end = editor.run(rebase(client, source.ledger()).json()["id"])
    assert not end.activated
    (live,) = registry.ledger.live(str(end.version))
    assert live.fact.subject == "A"

    asked = rebase(client, source.ledger(), activate=True)
    assert problem_of(asked, 428).errors[0].field == "If-Match"
    wrong = rebase(client, source.ledger(), {"If-Match": '"1"'}, activate=True)
    assert problem_of(wrong, 412).detail == "active is at epoch 2, If-Match says 1"
    for match in ('"2"', "*"):
        moved = rebase(client, source.ledger(), {"If-Match": match}, activate=True)
        end = editor.run(moved.json()["id"])
        assert end.activated
        assert registry.versions.resolve("active") == end.version


def test_a_second_rebase_replaces_the_first(
    client: httpx2.Client, editor: Editor, registry: Registry, source: Source
) -> None:
    a, b = source.edit(about("A"), about("B"))
    editor.run(rebase(client, source.ledger()).json()["id"])
    source.editor.run(source.client.delete(f"/facts/{a}").json()["id"])
    (c,) = source.edit(about("C"))
    again = rebase(client, source.ledger(), {"If-Match": "*"}, activate=True)
    editor.run(again.json()["id"])
    live = registry.ledger.live(registry.versions.resolve("active"))
    assert {one.id for one in live} == {b, c}


def test_a_replay_is_the_first_edit(
    client: httpx2.Client, editor: Editor, registry: Registry, source: Source
) -> None:
    source.edit(about("A"))
    key = {"Idempotency-Key": "monday"}
    first = rebase(client, source.ledger(), key).json()["id"]
    assert rebase(client, source.ledger(), key).json()["id"] == first
    editor.run(first)
    # The source was measured in full meanwhile: it is still the same request.
    full = FullReport(facts=1, live=1, success=1, seconds=1, at=2)
    source.editor.registry.full_reports.put(source.ledger()["version"], full)
    replay = rebase(client, source.ledger(), {**key, "Prefer": "wait=5"})
    assert (replay.status_code, replay.json()["id"]) == (200, first)
    assert replay.json()["state"] == "committed"

    source.edit(about("B"))
    other = problem_of(rebase(client, source.ledger(), key), 422)
    assert other.errors[0].field == "Idempotency-Key"
    options = problem_of(rebase(client, source.ledger("v1"), key, activate=False), 422)
    assert options.errors[0].field == "Idempotency-Key"
    assert registry.edits.page(10)[0] == [first]


def test_before_the_target_has_a_version(client: httpx2.Client, source: Source) -> None:
    source.edit(about("A"))
    answer = rebase(client, source.ledger())
    assert "no version yet" in problem_of(answer, 503).detail
    assert int(answer.headers["Retry-After"]) >= 1

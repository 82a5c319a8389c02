"""Edits and facts: posted, followed, refused, listed, taken back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from contracts.edits import EditState
from contracts.edits import Progress as Told
from memit_client import (
    Conflict,
    EditCancelled,
    EditRejected,
    Fact,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    Progress,
    WaitTimeout,
)
from registry.registry import Registry
from tests.unit.cli.conftest import Working
from tests.unit.client.both_ways import Connect
from tests.unit.client.proxy import Cut, Own, proxy
from tests.unit.service.worker_peer import Editor

PROMPT = "{} is located in the city of"
ROME = {"subject": "The Eiffel Tower", "prompt": PROMPT, "target_new": "Rome"}
LONDON = Fact(subject="Big Ben", prompt=PROMPT, target_new="London", metadata={"by": "me"})


def told(stage: str, done: int, total: int) -> Told:
    return Told(stage=stage, done=done, total=total, at=time.time())


def test_an_edit_is_followed_to_its_end(client: Any, working: Working, registry: Registry) -> None:
    seen: list[Progress] = []
    with working(told("z", 1, 2), told("insert", 5, 5)):
        edit = client.edit([ROME, LONDON], gate={"min_success": 0.5})
        assert edit.state in ("queued", "running")
        assert not edit.ended
        ended = client.wait(edit, timeout=20, on_progress=seen.append)
    assert [(one.stage, one.done, one.total) for one in seen] == [("z", 1, 2), ("insert", 5, 5)]
    assert (ended.id, ended.state, ended.activated, ended.ended) == (
        edit.id,
        "committed",
        True,
        True,
    )
    assert [fact.target_new for fact in ended.facts] == ["Rome", "London"]
    assert ended.report.success == 1
    kept = registry.edits.get(edit.id).request
    assert kept.gate.min_success == 0.5
    assert kept.facts[1].metadata == {"by": "me"}
    assert client.wait(edit.id) == ended == client.get_edit(edit.id)


def test_waiting_from_the_start(client: Any, working: Working) -> None:
    with working():
        edit = client.add("The Eiffel Tower", PROMPT, "Rome", wait=True)
        again = client.add("The Eiffel Tower", PROMPT, "Paris", wait=True)
    assert [edit.state, again.state] == ["committed"] * 2
    assert again.superseded[0].old == edit.facts[0].id
    assert client.get_fact(edit.facts[0].id).state == "superseded"


def test_a_rejected_edit_raises_where_it_was_waited_for(client: Any, working: Working) -> None:
    with working(reject=True):
        edit = client.edit([ROME])
        with pytest.raises(EditRejected) as caught:
            client.wait(edit)
    assert caught.value.edit.id == edit.id
    assert caught.value.problem == caught.value.edit.problem is not None
    assert caught.value.problem.detail in str(caught.value)
    assert client.get_edit(edit.id).state == "rejected"


def test_waiting_has_an_end(client: Any) -> None:
    edit = client.edit([ROME])
    begun = time.monotonic()
    with pytest.raises(WaitTimeout, match="goes on") as caught:
        client.wait(edit, timeout=0.3)
    assert 0.3 <= time.monotonic() - begun < 4
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.edit_id == edit.id
    assert client.cancel(edit.id).state == "cancelled"
    with pytest.raises(EditCancelled):
        client.wait(edit)
    with pytest.raises(Conflict, match="cannot be cancelled"):
        client.cancel(edit.id)


def test_what_a_callback_raises_is_not_held_back(client: Any, working: Working) -> None:
    def refuse(_: Progress) -> None:
        raise ZeroDivisionError

    with working(told("z", 1, 2)), pytest.raises(ZeroDivisionError):
        client.wait(client.edit([ROME]), on_progress=refuse)


def test_an_edit_that_is_not_there(client: Any) -> None:
    with pytest.raises(NotFound, match="no edit 'edit-x'"):
        client.wait("edit-x", timeout=5)


def test_wrong_fields_are_named(client: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.edit([ROME, {**ROME, "prompt": "no slot"}, {**ROME, "subjct": "x"}])
    error = caught.value
    assert (error.status, error.title) == (422, "Invalid request")
    assert [(one.field, one.index) for one in error.errors] == [
        ("/facts/1/prompt", 1),
        ("/facts/2/subjct", 2),
    ]
    assert "must contain exactly one {}" in error.errors[0].reason
    assert error.detail in str(error)
    assert list(client.edits()) == []


def test_one_key_one_edit(client: Any) -> None:
    first = client.edit([ROME], idempotency_key="mine")
    assert client.edit([ROME], idempotency_key="mine").id == first.id
    assert client.edit([ROME]).id != first.id
    with pytest.raises(InvalidRequest, match="used before with another body"):
        client.edit([LONDON], idempotency_key="mine")


def test_activation_bound_to_an_epoch(client: Any, registry: Registry) -> None:
    with pytest.raises(PreconditionFailed, match="active is at epoch 1"):
        client.edit([ROME], if_epoch=7)
    edit = client.edit(
        [ROME], base="v0", activate=True, if_epoch=1, drop_failed=True, mom2_update_weight=9
    )
    kept = registry.edits.get(edit.id)
    assert (kept.if_match, kept.request.activate, kept.request.drop_failed) == (1, True, True)
    assert kept.request.base == registry.versions.resolve("v0")
    assert kept.request.mom2_update_weight == 9
    trial = registry.edits.get(client.edit([ROME], activate=False).id)
    assert trial.request.activate is False


def test_facts_are_searched_read_and_taken_back(client: Any, working: Working) -> None:
    with working():
        brought = client.edit([ROME, LONDON], wait=True)
        (found,) = client.facts(subject="eiffel")
        assert (found.fact.target_new, found.edit_id) == ("Rome", brought.id)
        assert {fact.fact.subject for fact in client.facts()} == {"The Eiffel Tower", "Big Ben"}
        gone = client.retract(found.id, wait=True)
        assert gone.retract == [found.id]
        detail = client.get_fact(found.id)
        assert (detail.state, detail.ended_by) == ("retracted", gone.version)
        assert client.get_fact(found.id, version="v1").state == "live"
        with pytest.raises(Conflict, match="is not live"):
            client.retract(found.id)
        assert [fact.fact for fact in client.facts()] == [LONDON]
        assert len(list(client.facts(version="v1"))) == 2
        last = client.edit(retract=[fact.id for fact in client.facts()], wait=True)
    assert (last.state, list(client.facts())) == ("committed", [])


def test_lists_go_over_all_pages(client: Any, registry: Registry, editor: Editor) -> None:
    """Newest first; a page is asked for when it is reached."""
    facts = [{**ROME, "subject": f"Tower {number}"} for number in range(205)]
    editor.run(client.edit(facts).id)
    subjects = {fact.fact.subject for fact in client.facts()}
    assert len(subjects) == 205
    some = client.facts()
    assert next(some).fact.subject in subjects
    some.close()


def test_all_edits(client: Any) -> None:
    ids = [client.edit([ROME]).id for _ in range(3)]
    assert [edit.id for edit in client.edits()] == ids[::-1]
    assert all(edit.state == EditState.QUEUED for edit in client.edits())


def test_a_service_that_went_away_is_waited_for(
    connect: Connect, url: str, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News break off, then nobody can answer, and at last the edit is told."""
    # The proxy hands on a stream when it has ended: on a slow machine it is silent for long.
    monkeypatch.setattr("memit_client.follow.LOOK_SECONDS", 20.0)
    with proxy(url) as between, working():
        client = connect(between.url)
        edit = client.edit([ROME])
        between.script = [Cut(5), Own(503), Own(429)]
        assert client.wait(edit, timeout=20).state == "committed"
        assert len(between.seen) == 5

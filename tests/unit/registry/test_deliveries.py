"""What is to be sent to a webhook is known from the registry alone, and stays bounded."""

from __future__ import annotations

import time

import pytest

from contracts.errors import Conflict, NotFound
from contracts.keys import LOCAL
from contracts.webhooks import ALL_EVENTS, DeliveryState, EventType, Sent, WebhookRequest
from registry.checkup import examine
from registry.deliveries import Deliveries, Due
from registry.errors import RecordDamaged
from registry.registry import Registry
from registry.store import Store
from tests.unit.registry.building import accepted, run, with_v0
from tests.unit.registry.stores import damage

ASKED = WebhookRequest(url="https://example.com/x")
EDITS = WebhookRequest(url="https://example.com/x", events=[EventType.EDIT_COMMITTED])


def fresh(registry: Registry, webhook_id: str) -> Deliveries:
    """As another process finds them."""
    return Registry(registry.store).webhooks.deliveries(webhook_id)


def edit(registry: Registry, subject: str) -> str:
    made = accepted(subject)
    registry.edits.accept(made)
    run(registry, made.id)
    assert registry.audit.catch_up()
    return made.id


def sent(due: Due) -> Sent:
    return Sent(event=due.id, type=due.type, at=time.time(), seconds=0.1, delivered=True)


def first(deliveries: Deliveries) -> Due:
    due = deliveries.next()
    assert due is not None
    return due


def deliver(deliveries: Deliveries) -> Due:
    due = first(deliveries)
    deliveries.put(due, sent(due), DeliveryState.DELIVERED, None)
    return due


def fail(deliveries: Deliveries, seconds: float) -> Due:
    due = first(deliveries)
    deliveries.put(due, sent(due), DeliveryState.RETRYING, time.time() + seconds)
    return due


def test_what_was_before_is_not_told(registry: Registry) -> None:
    with_v0(registry)
    edit(registry, "before")
    webhook = registry.webhooks.create(ASKED, LOCAL)
    assert webhook.events == ALL_EVENTS
    assert fresh(registry, webhook.id).next() is None
    after = edit(registry, "after")
    deliveries = fresh(registry, webhook.id)
    told = {(one.type, one.change.subject) for one in (deliver(deliveries), deliver(deliveries))}
    assert told == {(EventType.ALIAS_MOVED, "active"), (EventType.EDIT_COMMITTED, after)}
    assert deliveries.next() is None


def test_another_process_goes_on(registry: Registry) -> None:
    with_v0(registry)
    webhook = registry.webhooks.create(EDITS, LOCAL)
    edits = [edit(registry, str(number)) for number in range(4)]
    one, two = fresh(registry, webhook.id), fresh(registry, webhook.id)
    assert first(one).id == first(two).id
    failed = fail(one, 3600.0)
    assert failed.change.subject == edits[0]
    assert deliver(one).change.subject == edits[1]
    assert deliver(two).change.subject == edits[2]
    assert deliver(one).change.subject == edits[3]
    for deliveries in (one, two, fresh(registry, webhook.id)):
        again = first(deliveries)
        assert (again.id, again.attempts) == (failed.id, 1)
        assert again.at == pytest.approx(time.time() + 3600, abs=60)
    deliver(fresh(registry, webhook.id))
    for deliveries in (one, two, fresh(registry, webhook.id)):
        assert deliveries.next() is None


def test_the_id_of_an_event_stays_and_is_of_one_registry(registry: Registry, store: Store) -> None:
    with_v0(registry)
    webhook = registry.webhooks.create(ASKED, LOCAL)
    edit(registry, "x")
    ids = {first(fresh(registry, webhook.id)).id for _ in range(3)}
    assert len(ids) == 1
    other = registry.webhooks.create(ASKED, LOCAL)
    edit(registry, "y")
    assert first(fresh(registry, other.id)).id not in ids


def test_one_that_was_delivered_by_two_is_not_tried_again(registry: Registry) -> None:
    """The slower one of two that sent it at once says that it failed; an older event is open."""
    with_v0(registry)
    webhook = registry.webhooks.create(EDITS, LOCAL)
    edit(registry, "stuck")
    one, two = fresh(registry, webhook.id), fresh(registry, webhook.id)
    stuck = fail(one, 3600.0)
    edit(registry, "x")
    due = first(two)
    assert due.id != stuck.id
    deliver(one)
    two.put(due, sent(due), DeliveryState.RETRYING, time.time() + 1.0)
    for deliveries in (one, two, fresh(registry, webhook.id)):
        assert first(deliveries).id == stuck.id
    deliver(one)
    for deliveries in (one, two, fresh(registry, webhook.id)):
        assert deliveries.next() is None


def test_who_starts_reads_no_more_than_is_open(registry: Registry) -> None:
    with_v0(registry)
    webhook = registry.webhooks.create(EDITS, LOCAL)
    deliveries = registry.webhooks.deliveries(webhook.id)
    edit(registry, "stuck")
    fail(deliveries, 3600.0)
    for number in range(3):
        edit(registry, str(number))
        deliver(deliveries)
    key = f"webhooks/{webhook.id}/attempts/{{}}.json"
    stuck = registry.store.get(key.format(3))
    assert stuck is not None
    assert b'"since":0' in stuck
    due = first(deliveries)
    deliveries.put(due, sent(due), DeliveryState.GIVEN_UP, None)
    edit(registry, "last")
    deliver(deliveries)
    last = registry.store.get(key.format(5))
    assert last is not None
    assert b'"since":5' in last
    assert f'"settled":{registry.audit.newest()}'.encode() in last


def test_an_attempt_that_cannot_be_read_is_made_again(registry: Registry) -> None:
    with_v0(registry)
    webhook = registry.webhooks.create(EDITS, LOCAL)
    edits = [edit(registry, str(number)) for number in range(2)]
    deliveries = registry.webhooks.deliveries(webhook.id)
    deliver(deliveries)
    deliver(deliveries)
    damage(registry.store, f"webhooks/{webhook.id}/attempts/1.json", b"{")
    again = fresh(registry, webhook.id)
    assert deliver(again).change.subject == edits[1]
    assert again.next() is None


def test_attempts_are_listed_newest_first(registry: Registry) -> None:
    with_v0(registry)
    webhook = registry.webhooks.create(EDITS, LOCAL)
    edit(registry, "x")
    deliveries = registry.webhooks.deliveries(webhook.id)
    fail(deliveries, 0.0)
    deliver(deliveries)
    newest, following = deliveries.page(1)
    assert [one.attempt for one in newest] == [2]
    oldest, end = deliveries.page(1, following)
    assert [one.state for one in oldest] == [DeliveryState.RETRYING]
    assert end is None


def test_there_is_one_end(registry: Registry) -> None:
    webhook = registry.webhooks.create(ASKED, LOCAL)
    over = registry.webhooks.end(webhook.id, "key-0123456789abcdef", "deleted")
    assert registry.webhooks.end(webhook.id, LOCAL, "gone") == over
    assert (over.ended_by, over.ended) == ("key-0123456789abcdef", "deleted")
    other = Registry(registry.store).webhooks
    assert other.all() == [over]
    assert other.live() == []
    with pytest.raises(NotFound):
        other.end("webhook-0000000000000000", LOCAL, "deleted")


def test_a_damaged_webhook_takes_no_other_with_it(registry: Registry) -> None:
    broken = registry.webhooks.create(ASKED, LOCAL)
    whole = registry.webhooks.create(ASKED, LOCAL)
    key = f"webhooks/{broken.id}/webhook.json"
    damage(registry.store, key, b"{")
    fresh = Registry(registry.store)
    assert [one.id for one in fresh.webhooks.live()] == [whole.id]
    assert [one.id for one in fresh.webhooks.all()] == [whole.id]
    (finding,) = examine(fresh).findings
    assert (finding.file, finding.what) == (key, "whom to tell of events")
    assert broken.secret not in finding.model_dump_json()
    with pytest.raises(RecordDamaged):
        fresh.webhooks.end(broken.id, LOCAL, "deleted")
    assert fresh.webhooks.is_over(broken.id)


def test_the_doctor_reads_ends_and_attempts(registry: Registry) -> None:
    with_v0(registry)
    webhook = registry.webhooks.create(EDITS, LOCAL)
    edit(registry, "x")
    deliver(registry.webhooks.deliveries(webhook.id))
    registry.webhooks.end(webhook.id, LOCAL, "deleted")
    assert examine(registry).findings == []
    files = [f"webhooks/{webhook.id}/{name}" for name in ("attempts/0.json", "end.json")]
    for file in files:
        damage(registry.store, file, b"{")
    found = examine(Registry(registry.store)).findings
    assert [one.file for one in found] == files
    assert all(one.what != "unknown" for one in found)
    assert Registry(registry.store).webhooks.live() == []


def test_no_more_than_so_many(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.webhooks.MAX_WEBHOOKS", 2)
    one, _ = (registry.webhooks.create(ASKED, LOCAL) for _ in range(2))
    with pytest.raises(Conflict, match="delete one"):
        registry.webhooks.create(ASKED, LOCAL)
    registry.webhooks.end(one.id, LOCAL, "deleted")
    registry.webhooks.create(ASKED, LOCAL)

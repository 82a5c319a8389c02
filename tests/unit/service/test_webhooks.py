"""Webhooks over HTTP: made, told of what happens, signed; what is not taken comes again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from cli.embedded_redis import free_port
from contracts.edits import EditEnd, EditState
from contracts.errors import Problem
from contracts.keys import LOCAL
from contracts.limits import MAX_WEBHOOK_URL_CHARS, MAX_WEBHOOKS
from contracts.webhooks import EventType, WebhookRequest
from registry.registry import Registry
from service.webhooks.schedule import JITTER, MAX_RETRY_AFTER, PAUSES, pause_after
from tests.unit.cli.waiting import wait_until
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import about
from tests.unit.service.receiver import LOOPBACK, Receiver, receiving
from tests.unit.service.worker_peer import Editor

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def client(serve: Serve) -> httpx2.Client:
    return serve(webhook_allow_private=LOOPBACK)


@pytest.fixture
def make(client: httpx2.Client) -> Make:
    def make(receiver: Receiver, **fields: Any) -> dict[str, Any]:
        answer = client.post("/webhooks", json={"url": receiver.url, **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    return make


def post(client: httpx2.Client, city: str, **fields: Any) -> str:
    made = client.post("/edits", json={"facts": [about(city)], **fields})
    assert made.status_code == 202, made.text
    return str(made.json()["id"])


def attempts(client: httpx2.Client, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    """Oldest first."""
    found = client.get(f"/webhooks/{webhook['id']}/deliveries", params={"limit": 100})
    assert found.status_code == 200, found.text
    return list(reversed(found.json()["items"]))


def test_every_end_of_an_edit_and_every_move_is_told(
    client: httpx2.Client, make: Make, editor: Editor, registry: Registry
) -> None:
    before = post(client, "Before")
    editor.run(before)
    with receiving() as receiver:
        webhook = make(receiver)
        committed, rejected = post(client, "Secret Rome"), post(client, "Oslo")
        editor.run(committed, measured={"perplexity_ratio": 1.5})
        editor.run(rejected, reject=True)
        failed, cancelled = post(client, "Bonn"), post(client, "Lima")
        problem = Problem(
            type="/problems/invalid-request", title="x", status=422, detail="Bonn cannot be written"
        )
        end = EditEnd(state=EditState.FAILED, at=time.time(), problem=problem)
        registry.edits.finish(failed, end)
        client.delete(f"/edits/{cancelled}")
        headers = {"If-None-Match": "*"}
        split = {"split": {"v0": 1, "v1": 3}}
        assert client.put("/aliases/canary", json=split, headers=headers).status_code == 201
        got = receiver.wait_for(6)
        told = [one.verified(webhook["secret"]) for one in got]
    assert {(one["type"], one["data"].get("id", one["data"].get("name"))) for one in told} == {
        ("alias.moved", "active"),
        ("edit.committed", committed),
        ("edit.rejected", rejected),
        ("edit.failed", failed),
        ("edit.cancelled", cancelled),
        ("alias.moved", "canary"),
    }
    assert len({one.id for one in got}) == 6
    by_type = {one["type"]: one for one in told}
    data = by_type["edit.committed"]["data"]
    ended = client.get(f"/edits/{committed}").json()
    assert data["version"] == ended["version"]
    assert data["activated"]
    assert (data["facts"], data["success"], data["perplexity_ratio"]) == (1, 1.0, 1.5)
    assert data["principal"] == "local"
    assert by_type["edit.failed"]["data"]["problem"] == "/problems/invalid-request"
    assert by_type["edit.failed"]["timestamp"].endswith("Z")
    canary = told[-1]["data"]
    assert canary["epoch"] == 1
    assert canary["split"][canary["version"]] == 3
    assert sorted(canary["split"].values()) == [1, 3]
    assert canary["principal"] == "local"
    for text in ("Secret", "Oslo", "Bonn", "is in"):
        assert text not in str(told)
    wait_until(lambda: len(attempts(client, webhook)) == 6)
    assert {one["state"] for one in attempts(client, webhook)} == {"delivered"}
    metrics = client.get("/metrics").text
    assert 'memit_webhook_attempts_total{state="delivered"} 6.0' in metrics


def test_only_what_was_asked_for_comes(client: httpx2.Client, make: Make, editor: Editor) -> None:
    with receiving() as edits, receiving() as moves:
        make(edits, events=["edit.committed"])
        make(moves, events=["alias.moved"], aliases=["canary"])
        editor.run(post(client, "Rome"))
        client.put("/aliases/canary", json={"version": "v1"}, headers={"If-None-Match": "*"})
        edits.wait_for(1)
        moves.wait_for(1)
        time.sleep(0.5)
        assert [b'"edit.committed"' in one.body for one in edits.got] == [True]
        assert [b'"canary"' in one.body for one in moves.got] == [True]


def test_a_signature_is_of_the_secret_and_the_body(
    client: httpx2.Client, make: Make, editor: Editor
) -> None:
    with receiving() as receiver:
        webhook = make(receiver)
        tried = client.post(f"/webhooks/{webhook['id']}/test").json()
        assert (tried["delivered"], tried["status"], tried["type"]) == (True, 204, "ping")
        (got,) = receiver.got
    assert got.id == tried["event"]
    event = got.verified(webhook["secret"])
    assert (event["type"], event["data"]) == ("ping", {"webhook": webhook["id"]})
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook["secret"]).verify(got.body + b" ", got.headers)
    other = "whsec_" + "A" * 44
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(got.body, got.headers)
    assert attempts(client, webhook) == []


def test_what_was_not_taken_comes_again(client: httpx2.Client, make: Make, editor: Editor) -> None:
    """After a 500, after a redirect, which is not followed, and after nobody was there."""
    port = free_port()
    with receiving() as receiver, receiving() as other:
        receiver.answers = [(500, {})]
        failing = make(receiver, events=["edit.committed"])
        away = make(Receiver(f"http://127.0.0.1:{port}/"), events=["edit.committed"])
        with receiving() as redirecting:
            redirecting.answers = [(307, {"Location": other.url})]
            redirected = make(redirecting, events=["edit.committed"])
            editor.run(post(client, "Rome"))
            wait_until(lambda: bool(attempts(client, away)))
            with receiving(port) as late:
                first, second = receiver.wait_for(2)
                (came,) = late.wait_for(1)
                redirecting.wait_for(2)
        assert other.got == []
    assert first.id == second.id == came.id
    assert first.body == second.body
    reasons = {"failing": "answered 500", "away": "connect", "redirected": "are not followed"}
    for name, webhook in (("failing", failing), ("away", away), ("redirected", redirected)):
        wait_until(lambda one=webhook: len(attempts(client, one)) == 2)  # type: ignore[misc]
        before, after = attempts(client, webhook)
        assert (before["state"], after["state"]) == ("retrying", "delivered")
        assert (before["attempt"], after["attempt"]) == (1, 2)
        assert reasons[name] in before["reason"].lower()
        assert 5 <= before["next_at"] - before["at"] < 10
        assert after["at"] >= before["next_at"]
        assert (after["next_at"], after["reason"]) == (None, None)


def test_retry_after_is_heard(client: httpx2.Client, make: Make, editor: Editor) -> None:
    with receiving() as receiver:
        receiver.answers = [(503, {"Retry-After": "3600"})]
        webhook = make(receiver, events=["edit.committed"])
        editor.run(post(client, "Rome"))
        wait_until(lambda: bool(attempts(client, webhook)))
    (attempt,) = attempts(client, webhook)
    assert attempt["next_at"] == pytest.approx(attempt["at"] + 3600, abs=10)


def test_gone_is_the_end(client: httpx2.Client, make: Make, editor: Editor) -> None:
    with receiving() as receiver:
        receiver.answers = [(410, {})]
        webhook = make(receiver, events=["edit.committed"])
        editor.run(post(client, "Rome"))
        wait_until(lambda: client.get("/webhooks").json()[0]["ended"] == "gone")
        wait_until(lambda: bool(attempts(client, webhook)))
        editor.run(post(client, "Oslo"))
        time.sleep(0.5)
        assert len(receiver.got) == 1
    assert attempts(client, webhook)[0]["state"] == "gone"
    assert client.post(f"/webhooks/{webhook['id']}/test").status_code == 409
    told = client.get("/audit").json()["items"]
    assert ("webhook.ended", webhook["id"], "gone") in {
        (one["action"], one["subject"], one["detail"]) for one in told
    }


def test_a_deleted_webhook_gets_nothing_more(
    client: httpx2.Client, make: Make, editor: Editor
) -> None:
    with receiving() as receiver:
        receiver.answers = [(500, {})]
        webhook = make(receiver, events=["edit.committed"])
        editor.run(post(client, "Rome"))
        wait_until(lambda: bool(attempts(client, webhook)))
        over = client.delete(f"/webhooks/{webhook['id']}")
        assert over.json()["ended"] == "deleted"
        assert client.delete(f"/webhooks/{webhook['id']}").json() == over.json()
        editor.run(post(client, "Oslo"))
        time.sleep(PAUSES[0] * (1 + JITTER) + 0.5)
        assert len(receiver.got) == 1


def test_nobody_waits_for_a_slow_receiver(
    client: httpx2.Client, make: Make, editor: Editor
) -> None:
    with receiving() as slow, receiving() as quick:
        slow.seconds = 9.0
        make(slow, events=["edit.committed"])
        make(quick, events=["edit.committed"])
        begun = time.monotonic()
        for city in ("Rome", "Oslo", "Bonn"):
            editor.run(post(client, city))
            assert client.get("/edits").status_code == 200
        quick.wait_for(3)
        assert time.monotonic() - begun < slow.seconds
        assert len(slow.got) == 1


def test_the_secret_is_shown_once(
    client: httpx2.Client,
    make: Make,
    editor: Editor,
    registry: Registry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving() as receiver:
        receiver.answers = [(500, {}), (410, {})]
        webhook = make(receiver)
        secret = webhook["secret"]
        editor.run(post(client, "Rome"))
        wait_until(lambda: len(attempts(client, webhook)) >= 2)
    shown = [
        client.get("/webhooks").text,
        client.get(f"/webhooks/{webhook['id']}/deliveries").text,
        client.get("/audit").text,
        client.get("/metrics").text,
        client.post(f"/webhooks/{webhook['id']}/test").text,
        client.delete(f"/webhooks/{webhook['id']}").text,
        repr(registry.webhooks.get(webhook["id"])),
        caplog.text,
    ]
    assert secret == registry.webhooks.get(webhook["id"]).secret
    assert len(secret.removeprefix("whsec_")) == 44
    for text in shown:
        assert secret[6:] not in text
    ours = [one for one in caplog.records if not one.name.startswith("httpcore2")]
    messages = "\n".join(one.getMessage() for one in ours if one.levelno > logging.DEBUG)
    assert webhook["id"] in messages
    assert "token-of-the-receiver" not in messages
    assert "token-of-the-receiver" not in client.get("/audit").text


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"url": "ftp://example.com/"}, "/url", "must be a URL with http or https"),
        ({"url": "example.com"}, "/url", "must be a URL with http or https"),
        ({"url": "http://me:pAss77@example.com/"}, "/url", "must have no user and password"),
        ({"url": "http://me@example.com/"}, "/url", "must have no user and password"),
        ({"url": "http://example.com/#x"}, "/url", "must have no fragment"),
        ({"url": "http://e.com/" + "x" * MAX_WEBHOOK_URL_CHARS}, "/url", "at most 2000"),
        ({"url": "http://e.com/" + "é" * 1000}, "/url", "at most 2000 characters when escaped"),
        ({"events": []}, "/events", "at least 1"),
        ({"events": ["ping"]}, "/events", "POST /webhooks/{id}/test alone"),
        ({"events": ["edit.begun"]}, "/events/0", "edit.committed"),
        ({"aliases": []}, "/aliases", "at least 1"),
        ({"aliases": ["../x"]}, "/aliases/0", "pattern"),
        ({"secret": "mine"}, "/secret", ""),
    ],
)
def test_what_is_wrong_is_named(
    client: httpx2.Client, fields: dict[str, Any], field: str, reason: str
) -> None:
    refused = client.post("/webhooks", json={"url": "http://example.com/", **fields})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["field"] == field
    assert reason in error["reason"]
    assert "pAss77" not in refused.text


def test_there_are_so_many_at_most(client: httpx2.Client, make: Make) -> None:
    nowhere = Receiver("http://127.0.0.1:9/")
    webhooks = [make(nowhere) for _ in range(MAX_WEBHOOKS)]
    refused = client.post("/webhooks", json={"url": nowhere.url})
    assert refused.status_code == 409
    client.delete(f"/webhooks/{webhooks[0]['id']}")
    make(nowhere)
    for path in ("/webhooks/webhook-0", "/webhooks/..%2fkeys"):
        assert client.delete(path).status_code == 404
    assert client.get("/webhooks/webhook-0123456789abcdef/deliveries").status_code == 404


def test_an_event_that_cannot_be_told_stops_no_other(
    serve: Serve, editor: Editor, registry: Registry
) -> None:
    """The record that it tells of was damaged after the audit log had it."""
    with receiving() as receiver:
        asked = WebhookRequest(url=receiver.url, events=[EventType.ALIAS_MOVED])
        webhook = registry.webhooks.create(asked, LOCAL)
        for name in ("one", "two"):
            registry.aliases.move(name, registry.versions.resolve("v0"), 0)
        assert registry.audit.catch_up()
        assert registry.store.set_aside("aliases/one/1.json")
        client = serve(webhook_allow_private=LOOPBACK)
        (got,) = receiver.wait_for(1)
        wait_until(lambda: len(attempts(client, webhook.model_dump())) == 2)
        lost, told = attempts(client, webhook.model_dump())
    assert got.verified(webhook.secret)["data"]["name"] == "two"
    assert (lost["state"], lost["attempt"], told["state"]) == ("retrying", 1, "delivered")
    assert lost["reason"].startswith("not sent: aliases/one/1.json is damaged")


def test_pauses_grow_and_end() -> None:
    for number, pause in enumerate(PAUSES, start=1):
        drawn = [pause_after(number) for _ in range(100)]
        assert all(one is not None and pause <= one <= pause * (1 + JITTER) for one in drawn)
        assert len(set(drawn)) > 1
    assert pause_after(len(PAUSES) + 1) is None
    assert pause_after(1, retry_after=3600.0) == 3600.0
    assert pause_after(1, retry_after=1e9) == MAX_RETRY_AFTER
    least = pause_after(1, retry_after=-5.0)
    assert least is not None
    assert least >= PAUSES[0]


def test_two_services_send_an_event_once(serve: Serve, editor: Editor, tmp_path: Path) -> None:
    one, two = (serve(webhook_allow_private=LOOPBACK) for _ in range(2))
    with receiving() as receiver:
        receiver.seconds = 0.2
        made = one.post("/webhooks", json={"url": receiver.url, "events": ["edit.committed"]})
        edits = []
        for number in range(6):
            edits.append(post((one, two)[number % 2], f"City {number}"))
            editor.run(edits[-1])
        receiver.wait_for(6)
        time.sleep(1.5)
        told = [got.verified(made.json()["secret"])["data"]["id"] for got in receiver.got]
    assert told == edits

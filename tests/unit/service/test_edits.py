"""An edit from `POST /edits` to its end: accepted once, followed, waited for, cancelled."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx2
import redis as blocking
from rq import Queue
from rq.serializers import JSONSerializer

from contracts.edits import Progress
from contracts.transport import CHANGES_CHANNEL, EDIT_QUEUE, RUN_EDIT_JOB, progress_stream
from registry.registry import Registry
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import about, eiffel
from tests.unit.service.worker_peer import Editor


def post(client: httpx2.Client, *facts: dict[str, Any], **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/edits", json={"facts": list(facts)}, headers=named)


def test_an_edit_is_accepted_before_any_worker_ever_started(
    client: httpx2.Client, registry: Registry, redis_url: str
) -> None:
    answer = post(client, eiffel())
    assert answer.status_code == 202
    edit = answer.json()
    assert answer.headers["Location"] == f"/edits/{edit['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert edit["state"] == "queued"
    assert edit["facts"][0]["subject"] == "The Eiffel Tower"

    assert registry.edits.unfinished() == [edit["id"]]
    assert client.get(answer.headers["Location"]).json() == edit
    with blocking.Redis.from_url(redis_url) as connection:
        queue = Queue(EDIT_QUEUE, connection=connection, serializer=JSONSerializer)
        (job,) = queue.jobs
        assert (job.id, job.func_name, job.args) == (edit["id"], RUN_EDIT_JOB, [edit["id"]])
        assert job.timeout == -1


def test_an_edit_is_accepted_while_redis_is_down(serve: Serve, registry: Registry) -> None:
    client = serve(MEMIT_REDIS_URL="redis://127.0.0.1:1/0")
    answer = post(client, eiffel())
    assert answer.status_code == 202
    assert registry.edits.unfinished() == [answer.json()["id"]]
    assert client.get(answer.headers["Location"]).json()["state"] == "queued"


def test_the_same_key_and_body_give_the_same_edit(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    first = post(client, eiffel(), Idempotency_Key="monday")
    again = post(client, eiffel(), Idempotency_Key="monday")
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert registry.edits.count_unfinished() == 1
    other = post(client, eiffel(), Idempotency_Key="tuesday")
    assert other.json()["id"] != first.json()["id"]

    # A replay is answered also when the same request would be refused by now.
    editor.run(first.json()["id"])
    fact = first.json()["facts"][0]["id"]
    body = {"retract": [fact]}
    retract = client.post("/edits", json=body, headers={"Idempotency-Key": "back"})
    editor.run(retract.json()["id"])
    replay = client.post("/edits", json=body, headers={"Idempotency-Key": "back"})
    assert replay.json()["id"] == retract.json()["id"]
    assert replay.json()["state"] == "committed"
    assert client.post("/edits", json=body).status_code == 409


def test_a_reused_key_with_another_body_is_refused(client: httpx2.Client) -> None:
    post(client, eiffel(), Idempotency_Key="monday")
    answer = post(client, eiffel("Oslo"), Idempotency_Key="monday")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "Idempotency-Key"
    assert error["reason"] == "was used before with another body"


def test_many_at_once_with_one_key_make_one_edit(client: httpx2.Client, registry: Registry) -> None:
    answers: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(client, eiffel(), Idempotency_Key="k")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert registry.edits.count_unfinished() == 1


def test_prefer_wait_answers_with_the_end(client: httpx2.Client, editor: Editor) -> None:
    def work() -> None:
        deadline = time.monotonic() + 10
        while not editor.registry.edits.unfinished():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        editor.run(editor.registry.edits.unfinished()[0])

    worker = threading.Thread(target=work)
    worker.start()
    answer = post(client, eiffel(), Prefer="respond-async, wait=20")
    worker.join()
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=20"
    edit = answer.json()
    assert (edit["state"], edit["activated"]) == ("committed", True)
    assert edit["report"]["per_fact"][0]["success"] is True


def test_news_wakes_who_waits(serve: Serve, editor: Editor, redis_url: str) -> None:
    """Nobody looks at the registry meanwhile: without the news this would take an hour."""
    client = serve(poll_seconds=3_600)
    edits = editor.registry.edits
    with blocking.Redis.from_url(redis_url) as channel:
        waiting = threading.Event()

        def work() -> None:
            waiting.wait(10)
            edit_id = edits.unfinished()[0]
            editor.run(edit_id)
            channel.publish(CHANGES_CHANNEL, "another edit")
            channel.publish(CHANGES_CHANNEL, edit_id)

        worker = threading.Thread(target=work)
        worker.start()
        edit_id = post(client, eiffel()).json()["id"]
        with client.stream("GET", f"/edits/{edit_id}/events") as answer:
            time.sleep(0.3)
            waiting.set()
            events = [line for line in answer.iter_lines() if line.startswith("event:")]
        worker.join()
    assert events == ["event: end"]


def test_prefer_wait_ends_when_its_time_is_over(client: httpx2.Client, editor: Editor) -> None:
    begun = time.monotonic()
    answer = post(client, eiffel(), Prefer="wait=1")
    assert time.monotonic() - begun >= 1  # and it ends, though nobody runs the edit
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert answer.json()["state"] == "queued"
    assert "Preference-Applied" not in post(client, eiffel(), Prefer="wait=soon").headers


def test_equal_facts_collapse_and_the_base_is_pinned(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    body = {"facts": [eiffel(), about("Louvre"), eiffel()], "base": "active"}
    edit = client.post("/edits", json=body).json()
    assert [fact["subject"] for fact in edit["facts"]] == ["The Eiffel Tower", "Louvre"]
    assert edit["base"] == registry.versions.by_seq(0)


def test_edits_are_listed_newest_first_page_by_page(client: httpx2.Client) -> None:
    made = [post(client, about(f"City {n}")).json()["id"] for n in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    for size in (2, 2, 1):
        after = {"cursor": cursor} if cursor else {}
        page = client.get("/edits", params={"limit": 2, **after}).json()
        assert len(page["items"]) == size
        seen += [edit["id"] for edit in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == made[::-1]


def test_progress_is_in_the_edit_and_in_its_events(
    client: httpx2.Client, editor: Editor, registry: Registry, redis_url: str
) -> None:
    edit_id = post(client, eiffel()).json()["id"]
    assert registry.edits.start(edit_id, "worker-1", registry.versions.by_seq(0), 1)

    with blocking.Redis.from_url(redis_url) as connection:

        def say(done: int) -> None:
            progress = Progress(stage="z", done=done, total=2, loss=0.5, at=time.time())
            row = {"progress": progress.model_dump_json()}
            connection.xadd(progress_stream(edit_id), row)

        say(1)
        running = client.get(f"/edits/{edit_id}").json()
        assert running["state"] == "running"
        assert (running["progress"]["stage"], running["progress"]["done"]) == ("z", 1)

        names: list[str] = []
        with client.stream("GET", f"/edits/{edit_id}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for event in httpx2.EventSource(answer):
                names.append(event.event)
                data = json.loads(event.data)
                if names == ["progress"]:
                    assert data["done"] == 1
                    say(2)
                elif names == ["progress", "progress"]:
                    assert data["done"] == 2
                    registry.edits.requeue(edit_id, "worker-1")
                    editor.run(edit_id)
                else:
                    assert data["state"] == "committed"
                    assert data["version"] == registry.versions.by_seq(1)
        assert names == ["progress", "progress", "end"]


def test_events_of_a_finished_edit_are_its_end(client: httpx2.Client, editor: Editor) -> None:
    edit_id = post(client, eiffel()).json()["id"]
    editor.run(edit_id)
    with client.stream("GET", f"/edits/{edit_id}/events") as answer:
        (event,) = list(httpx2.EventSource(answer))
    assert event.event == "end"
    assert json.loads(event.data) == client.get(f"/edits/{edit_id}").json()


def test_cancel(client: httpx2.Client, editor: Editor, registry: Registry) -> None:
    waiting = post(client, eiffel()).json()["id"]
    answer = client.delete(f"/edits/{waiting}")
    assert answer.status_code == 200
    assert answer.json()["state"] == "cancelled"
    assert registry.edits.unfinished() == []

    again = client.delete(f"/edits/{waiting}")
    assert again.status_code == 409
    assert "is cancelled already" in again.json()["detail"]

    running = post(client, eiffel()).json()["id"]
    assert registry.edits.start(running, "worker-1", registry.versions.by_seq(0), 1)
    answer = client.delete(f"/edits/{running}")
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/edits/{running}"
    assert (answer.json()["state"], answer.json()["cancel_requested"]) == ("running", True)

    done = post(client, eiffel()).json()["id"]
    editor.run(done)
    answer = client.delete(f"/edits/{done}")
    assert answer.status_code == 409
    assert "is committed already" in answer.json()["detail"]


def test_the_queue_of_edits_is_bounded(serve: Serve, editor: Editor) -> None:
    client = serve(max_queued_edits=2)
    first = post(client, about("A"))
    assert post(client, about("B")).status_code == 202
    full = post(client, about("C"))
    assert full.status_code == 429
    assert full.json()["detail"] == "2 edits wait already"
    assert int(full.headers["Retry-After"]) >= 1
    editor.run(first.json()["id"])
    assert post(client, about("C")).status_code == 202


def test_activation_from_another_base_is_bound_to_an_epoch(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    editor.run(post(client, eiffel()).json()["id"])
    body = {"facts": [about("Louvre")], "base": "v0", "activate": True}

    missing = client.post("/edits", json=body)
    assert missing.status_code == 428
    assert missing.json()["errors"][0]["field"] == "If-Match"
    assert 'send If-Match: "2"' in missing.json()["detail"]
    wrong = client.post("/edits", json=body, headers={"If-Match": '"1"'})
    assert wrong.status_code == 412
    assert wrong.json()["detail"] == "active is at epoch 2, If-Match says 1"
    unread = client.post("/edits", json=body, headers={"If-Match": "two"})
    assert unread.status_code == 400
    assert unread.json()["errors"][0]["field"] == "If-Match"

    right = client.post("/edits", json=body, headers={"If-Match": '"2"'})
    assert right.status_code == 202
    assert registry.edits.get(right.json()["id"]).if_match == 2
    any_epoch = client.post("/edits", json=body, headers={"If-Match": "*"})
    assert registry.edits.get(any_epoch.json()["id"]).if_match == 2
    on_active = client.post("/edits", json={**body, "base": "active"})
    assert on_active.status_code == 202

"""Nobody looks at the registry again and again: after news, and now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from contracts.transport import CHANGES_CHANNEL
from registry import FolderStore, Registry
from tests.unit.registry.building import accepted
from tests.unit.registry.stores import CountingStore
from tests.unit.worker.conftest import MakeWorkshop
from tests.unit.worker.workshop import fact
from worker.changes import Changes
from worker.progress import EditProgress
from worker.status import Heartbeat


def test_a_look_is_due_at_first_after_news_and_now_and_then() -> None:
    changes = Changes(poll_seconds=1_000)
    mine, other = changes.timer(), changes.timer()
    assert (mine.due(), mine.due()) == (True, False)
    changes.note()
    assert (mine.due(), mine.due(), other.due()) == (True, False, True)
    often = Changes(poll_seconds=0.01).timer()
    assert often.due()
    time.sleep(0.02)
    assert often.due()


def test_a_cancel_is_looked_for_after_news(registry_path: Path, redis_url: str) -> None:
    store = CountingStore(FolderStore(registry_path))
    registry, changes = Registry(store), Changes(poll_seconds=1_000)
    edit = accepted()
    registry.edits.accept(edit)
    with Redis.from_url(redis_url) as redis:
        progress = EditProgress(edit.id, registry, redis, threading.Event(), changes.timer())
        progress("z", 0, 100)
        store.looks = 0
        for step in range(1, 100):
            progress("z", step, 100)
        assert store.looks == 0
        registry.edits.request_cancel(edit.id)
        progress("z", 99, 100)
        changes.note()
        with pytest.raises(Exception, match="cancelled by request"):
            progress("z", 99, 100)


@pytest.fixture
def stopping() -> Iterator[threading.Event]:
    stopping = threading.Event()
    yield stopping
    stopping.set()


def test_the_heartbeat_hears_of_changes(
    make_workshop: MakeWorkshop, redis_url: str, stopping: threading.Event
) -> None:
    workshop, changes = make_workshop(), Changes(poll_seconds=1_000)
    with Redis.from_url(redis_url) as redis:
        heartbeat = Heartbeat(
            "w", workshop.editor.loaded, redis, changes, engine=None, following=None, editing=None
        )
        heart = threading.Thread(target=heartbeat.keep_beating, args=(stopping,))
        heart.start()
        look = changes.timer()
        deadline = time.monotonic() + 20
        while not redis.publish(CHANGES_CHANNEL, "active"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        look.due()
        redis.publish(CHANGES_CHANNEL, "active")
        while not look.due():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stopping.set()
        heart.join(20)


def test_an_idle_reporter_asks_the_registry_nothing(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop()
    workshop.version([fact("Anna Keller")])
    workshop.changes.poll_seconds = 1_000
    counting = CountingStore(workshop.registry.store)
    workshop.registry = Registry(counting)
    reporter, stopping = workshop.reporter(), threading.Event()
    assert reporter.report(stopping) is not None
    assert reporter.report(stopping) is None
    counting.looks = 0
    for _ in range(50):
        assert reporter.report(stopping) is None
    assert counting.looks == 0
    workshop.changes.note()
    assert reporter.report(stopping) is None
    assert counting.looks > 0

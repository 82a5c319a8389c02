"""The request that an edit comes from is known as long as its job is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from contracts.origin import Origin
from contracts.transport import EDIT_QUEUE, edit_job
from registry.folder_store import FolderStore
from registry.registry import Registry
from tests.unit.registry.building import accepted
from worker.origins import origin_of
from worker.recovery import Recovery

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_it_is_in_the_meta_of_the_job(redis_url: str) -> None:
    origin = Origin(request_id="req-1", traceparent=PARENT)
    with Redis.from_url(redis_url) as redis:
        queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)
        queue.enqueue_call(**edit_job("edit-1", origin))
        assert origin_of("edit-1", redis) == origin
        assert origin_of("edit-2", redis) == Origin()
    assert origin.ids == {"request_id": "req-1", "trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert Origin().ids == {}


@pytest.mark.parametrize("meta", [{"request_id": "a\nb"}, {"traceparent": "x"}, {"request_id": 1}])
def test_what_nobody_of_ours_wrote_is_ignored(redis_url: str, meta: dict[str, Any]) -> None:
    with Redis.from_url(redis_url) as redis:
        queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)
        queue.enqueue_call(**{**edit_job("edit-1"), "meta": meta})
        assert origin_of("edit-1", redis) == Origin()


def test_an_edit_that_is_queued_again_keeps_it(redis_url: str, registry_path: Path) -> None:
    registry = Registry(FolderStore(registry_path))
    edit, _ = registry.edits.accept(accepted(), None, "digest")
    origin = Origin(request_id="req-1", traceparent=PARENT)
    with Redis.from_url(redis_url) as redis:
        queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)
        job = queue.enqueue_call(**edit_job(edit, origin))
        queue.remove(job)
        Job.fetch(edit, connection=redis, serializer=JSONSerializer).set_status("failed")
        Recovery(registry, redis).sweep()
        assert queue.job_ids == [edit]
        assert origin_of(edit, redis) == origin

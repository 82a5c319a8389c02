"""Which request an edit comes from, as its job in Redis says while there is one."""

from __future__ import annotations

from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer

from contracts.origin import Origin
from worker.rq_worker import ReadableJob


def origin_of(edit_id: str, redis: Redis) -> Origin:
    """Empty where the job is gone, or says nothing that can be read: it is for logs and traces."""
    try:
        job = ReadableJob.fetch(edit_id, connection=redis, serializer=JSONSerializer)
        return Origin.model_validate(job.meta)
    except (NoSuchJobError, RedisError, ValueError):
        return Origin()

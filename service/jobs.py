"""What the service tells the workers: an edit to run, and that something changed.

The registry already holds the truth when these are called, so a Redis that is down costs time, not
an edit: workers also look for unfinished edits by themselves.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from contracts.origin import Origin
from contracts.transport import CHANGES_CHANNEL, EDIT_QUEUE, edit_job, rebuild_job

log = logging.getLogger(__name__)


class Jobs:
    """The sending side of RQ; blocking, for worker threads of the service."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue = Queue(EDIT_QUEUE, connection=redis, serializer=JSONSerializer)

    def enqueue(self, edit_id: str) -> None:
        """Ask for the edit to be run; its job id is the edit id."""
        try:
            self._queue.enqueue_call(**edit_job(edit_id, Origin.here()))
        except DuplicateJobError:
            log.info("%s is queued already", edit_id)
        except RedisError as error:
            log.warning("%s is accepted but not yet queued: %s", edit_id, error)
        self.nudge(edit_id)

    def rebuild(self, version: str) -> None:
        """Ask for a version (full id) to be solved again.

        Raises:
            RedisError: Redis does not answer.
        """
        with suppress(DuplicateJobError):
            self._queue.enqueue_call(**rebuild_job(version))

    def nudge(self, what: str) -> None:
        """Tell who listens that `what` changed; a hint only."""
        try:
            self._redis.publish(CHANGES_CHANNEL, what)
        except RedisError as error:
            log.warning("no notice of the change of %s: %s", what, error)

    def depth(self) -> int:
        """Jobs waiting in RQ.

        Raises:
            RedisError: Redis does not answer.
        """
        return int(self._queue.count)

    def close(self) -> None:
        self._redis.close()

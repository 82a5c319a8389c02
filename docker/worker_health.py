"""Health check of a worker's container: exits 0 if its worker says in Redis that it is ready."""

from __future__ import annotations

import socket
import sys

from redis import Redis
from redis.exceptions import RedisError

from contracts.settings import Settings
from contracts.transport import WORKER_KEYS
from contracts.workers import WorkerStatus

TIMEOUT_SECONDS = 3.0


def ready(redis: Redis, host: str) -> bool:
    """Whether a worker on `host` has a live status and can generate.

    Raises:
        RedisError: Redis does not answer.
    """
    texts = redis.mget(keys) if (keys := list(redis.scan_iter(WORKER_KEYS, count=1000))) else []
    found = (WorkerStatus.model_validate_json(text) for text in texts if text is not None)
    return any(status.ready and status.host == host for status in found)


def main() -> int | str:
    """The exit code, or why it is 1."""
    redis = Redis.from_url(Settings().redis(), socket_timeout=TIMEOUT_SECONDS)
    try:
        return 0 if ready(redis, socket.gethostname()) else "the worker is not ready yet"
    except (RedisError, OSError) as error:
        return f"Redis does not answer: {error}"


if __name__ == "__main__":
    sys.exit(main())

"""The lock of a registry's one editor.

It saves work. What makes two editors harmless, should Redis lose it, are the registry's own
put-if-absent logs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from contracts.transport import EDITOR_LOCK, worker_key
from worker.progress import Interrupted

log = logging.getLogger(__name__)

LOCK_SECONDS = 15.0
DEAD_HOLDER_SECONDS = 0.5
"""How often a lock is tried whose holder died: it expires within `LOCK_SECONDS`."""


def editor_is_alive(redis: Redis) -> bool:
    """Whether a live worker holds the lock.

    Raises:
        RedisError: Redis does not answer.
    """
    holder = redis.get(EDITOR_LOCK)
    return isinstance(holder, bytes) and bool(redis.exists(worker_key(holder.decode())))


def _renew(lock: Lock, worker: str) -> None:
    """Hold the lock for longer, or take it again where Redis lost it."""
    try:
        lock.reacquire()
    except LockError:
        if lock.acquire(blocking=False, token=worker):
            log.warning("the editor lock was lost, and is taken again")
        else:
            log.warning("the editor lock was lost, and another worker holds it")


@contextmanager
def editor_lock(redis: Redis, worker: str, stopping: threading.Event) -> Iterator[bool]:
    """Hold the lock, renewed, while the context lasts; False where another live worker holds it.

    Raises:
        Interrupted: this worker is stopping.
        RedisError: Redis does not answer.
    """
    lock = redis.lock(EDITOR_LOCK, timeout=LOCK_SECONDS, thread_local=False)
    while not lock.acquire(blocking=False, token=worker):
        if editor_is_alive(redis):
            yield False
            return
        if stopping.wait(DEAD_HOLDER_SECONDS):
            raise Interrupted("the worker is stopping")
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LOCK_SECONDS / 3):
            try:
                _renew(lock, worker)
            except RedisError as error:
                log.warning("the editor lock was not renewed: %s", error)

    renewer = threading.Thread(target=renew, name="editor-lock", daemon=True)
    renewer.start()
    try:
        yield True
    finally:
        done.set()
        renewer.join()
        try:
            lock.release()
        except (LockError, RedisError) as error:
            log.warning("the editor lock was gone before it was released: %s", error)

"""Sends the events of webhooks: each webhook by itself, its events one after the other.

Every process of the service does so. A lock in Redis lets one at a time send for a webhook; that
saves receivers from hearing things twice, and nothing else depends on it: the registry knows what
was delivered. Without Redis events wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from anyio import CapacityLimiter, Event, create_task_group, move_on_after, sleep
from anyio.abc import TaskGroup
from anyio.to_thread import run_sync
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from contracts.errors import NotFound
from contracts.transport import webhook_lock
from contracts.webhooks import DeliveryState, Sent, WebhookRecord
from registry.deliveries import Deliveries, Due
from registry.errors import RegistryError
from registry.registry import Registry
from service.changes import ANYTHING, Changes
from service.metrics import Metrics
from service.webhooks.events import message_of
from service.webhooks.schedule import pause_after
from service.webhooks.sender import Answer, Sender

log = logging.getLogger(__name__)

LOCK_SECONDS = 30.0
"""Longer than a request and the record of it; a holder that dies keeps others waiting as long."""
RELEASE_SECONDS = 2.0
BUSY_SECONDS = 1.0
"""Until the next look where another process sends."""
REDIS_SECONDS = 5.0
"""The same where Redis does not answer."""
BROKEN_SECONDS = 60.0
"""The same where the storage fails."""
GONE = 410
_THREADS = 4
"""Of the disk, so that webhooks never take those of requests."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """What all couriers of a process share."""

    registry: Registry
    redis: Redis
    sender: Sender
    metrics: Metrics
    threads: CapacityLimiter

    async def on_disk(self, work: Callable[[], T]) -> T:
        """Do something that blocks."""
        return await run_sync(work, limiter=self.threads)


async def keep(
    registry: Registry, redis: Redis, sender: Sender, metrics: Metrics, changes: Changes
) -> None:
    """Send what happens to whom it was promised, until cancelled."""
    shared = Shared(registry, redis, sender, metrics, CapacityLimiter(_THREADS))
    couriers: dict[str, Courier] = {}
    async with create_task_group() as tasks:
        with changes.watch(ANYTHING) as watch:
            while True:
                await watch.due(float("inf"))
                try:
                    await _look(shared, couriers, tasks)
                except RegistryError as error:
                    log.warning("webhooks are behind: %s", error)
                except Exception:
                    # Whatever it is, requests go on, and nothing is lost: the registry has it.
                    log.exception("webhooks are behind")


async def _look(shared: Shared, couriers: dict[str, Courier], tasks: TaskGroup) -> None:
    """Bring the audit log up to date, and wake a courier for each webhook that is not over."""
    live = await shared.on_disk(shared.registry.webhooks.live)
    if not live:
        return
    while not await shared.on_disk(shared.registry.audit.catch_up):
        pass
    for webhook in live:
        if webhook.id not in couriers:
            couriers[webhook.id] = courier = Courier(shared, webhook)
            tasks.start_soon(courier.run)
        couriers[webhook.id].news.set()


class Courier:
    """Sends the events of one webhook, in their order as long as the receiver takes them."""

    def __init__(self, shared: Shared, webhook: WebhookRecord) -> None:
        self._shared = shared
        self._webhook = webhook
        self.news = Event()
        """Set when there may be something to send."""

    async def run(self) -> None:
        """Send until the webhook is over."""
        while True:
            self.news = Event()
            try:
                wait = await self._work()
            except RedisError as error:
                log.warning("%s waits: %s", self._webhook.id, error)
                await sleep(REDIS_SECONDS)
            except Exception:
                # Perhaps what was sent cannot be kept: it is sent again, but not at once.
                log.exception("%s waits", self._webhook.id)
                await sleep(BROKEN_SECONDS)
            else:
                if wait is None:
                    return
                with move_on_after(wait):
                    await self.news.wait()

    async def _work(self) -> float | None:
        """Send one event, if one is due.

        Returns:
            Seconds until the next look; None: the webhook is over.
        """
        deliveries = await self._shared.on_disk(self._still)
        due = None if deliveries is None else await self._shared.on_disk(deliveries.next)
        if deliveries is None or due is None:
            return None if deliveries is None else float("inf")
        if due.at > time.time():
            return due.at - time.time()
        lock = self._shared.redis.lock(webhook_lock(self._webhook.id), timeout=LOCK_SECONDS)
        if not await lock.acquire(blocking=False):
            return BUSY_SECONDS
        try:
            due = await self._shared.on_disk(deliveries.next)  # another process may have sent it
            if due is not None and due.at <= time.time():
                await self._deliver(deliveries, due)
        finally:
            with move_on_after(RELEASE_SECONDS, shield=True):
                await self._release(lock)
        return 0.0

    def _still(self) -> Deliveries | None:
        webhooks = self._shared.registry.webhooks
        over = webhooks.is_over(self._webhook.id)
        return None if over else webhooks.deliveries(self._webhook.id)

    async def _release(self, lock: Lock) -> None:
        try:
            await lock.release()
        except (LockError, RedisError) as error:
            log.warning("%s: its lock was gone: %s", self._webhook.id, error)

    async def _deliver(self, deliveries: Deliveries, due: Due) -> None:
        """Make one attempt, and keep what came of it."""
        answer = await self._answer(due)
        attempts = due.attempts + 1
        pause = None
        if answer.sent.delivered:
            state = DeliveryState.DELIVERED
        elif answer.sent.status == GONE:
            state = DeliveryState.GONE
            webhook = self._webhook.id
            log.error("%s is over: its receiver answered 410", webhook)
            end = self._shared.registry.webhooks.end
            await self._shared.on_disk(lambda: end(webhook, webhook, "gone"))
        else:
            pause = pause_after(attempts, answer.retry_after)
            state = DeliveryState.GIVEN_UP if pause is None else DeliveryState.RETRYING
            log.log(
                logging.ERROR if pause is None else logging.WARNING,
                "%s: %s %s, attempt %d, %s: %s",
                self._webhook.id, due.type, due.id, attempts, state, answer.sent.reason,
            )  # fmt: skip
        self._shared.metrics.webhooks.labels(state=state).inc()
        next_at = None if pause is None else time.time() + pause
        await self._shared.on_disk(lambda: deliveries.put(due, answer.sent, state, next_at))

    async def _answer(self, due: Due) -> Answer:
        """Send an event; whatever prevents that is an attempt that failed, and stops no other."""
        at = time.time()
        try:
            message = await self._shared.on_disk(lambda: message_of(self._shared.registry, due))
            return await self._shared.sender.send(self._webhook, message)
        except (NotFound, RegistryError) as error:
            reason = f"not sent: {error}"
        except Exception as error:
            log.exception("%s: %s is not sent", self._webhook.id, due.id)
            reason = f"not sent: {type(error).__name__}"
        return Answer(
            Sent(event=due.id, type=due.type, at=at, seconds=0.0, delivered=False, reason=reason)
        )

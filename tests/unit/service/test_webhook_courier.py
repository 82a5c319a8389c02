"""A courier looks again, once it may send, whether another process has just sent it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from anyio import CapacityLimiter
from redis.asyncio import Redis
from redis.asyncio.lock import Lock

from contracts.keys import LOCAL
from contracts.webhooks import DeliveryState, EventType, Sent, WebhookRequest
from registry.registry import Registry
from service.metrics import Metrics
from service.webhooks.courier import Courier, Shared
from service.webhooks.sender import Sender
from tests.unit.service.receiver import LOOPBACK, receiving
from tests.unit.service.worker_peer import Editor


def test_what_another_process_has_just_sent_is_not_sent_again(
    redis_url: str, registry: Registry, editor: Editor
) -> None:
    with receiving() as receiver:
        asked = WebhookRequest(url=receiver.url, events=[EventType.ALIAS_MOVED])
        webhook = registry.webhooks.create(asked, LOCAL)
        registry.aliases.move("canary", registry.versions.resolve("v0"), 0)
        assert registry.audit.catch_up()

        def another_sends() -> None:
            deliveries = Registry(registry.store).webhooks.deliveries(webhook.id)
            due = deliveries.next()
            assert due is not None
            at = time.time()
            sent = Sent(event=due.id, type=due.type, at=at, seconds=0.1, delivered=True)
            deliveries.put(due, sent, DeliveryState.DELIVERED, None)

        asyncio.run(work_once(redis_url, registry, webhook.id, another_sends))
        assert receiver.got == []
        registry.aliases.move("canary", registry.versions.resolve("v0"), 1)
        assert registry.audit.catch_up()
        asyncio.run(work_once(redis_url, registry, webhook.id, lambda: None))
        assert len(receiver.got) == 1


async def work_once(
    url: str, registry: Registry, webhook_id: str, before_the_lock: Callable[[], None]
) -> None:
    class Late(Redis):
        """Something happens between the look at what is due and the lock."""

        def lock(self, *args: Any, **options: Any) -> Lock:
            before_the_lock()
            return super().lock(*args, **options)

    sender = Sender([ip_network(LOOPBACK)])
    async with Late.from_url(url, decode_responses=True) as redis:
        shared = Shared(registry, redis, sender, Metrics(), CapacityLimiter(1))
        courier = Courier(shared, registry.webhooks.get(webhook_id))
        assert await courier._work() == 0.0
    await sender.close()

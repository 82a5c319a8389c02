"""The service says in its log, once, that Redis may throw away what it keeps there."""

from __future__ import annotations

import logging
import time

import pytest
from redis import Redis

from service.redis_policy import POLICY
from tests.unit.cli.waiting import wait_until
from tests.unit.service.conftest import Serve


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
def test_another_policy_is_named_once(
    serve: Serve, redis_url: str, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set(POLICY, policy)
        try:
            with caplog.at_level(logging.INFO):
                client = serve()
                if policy == "noeviction":
                    time.sleep(0.3)
                else:
                    wait_until(lambda: policy in caplog.text)
                for _ in range(3):
                    client.get("/healthz")
        finally:
            redis.config_set(POLICY, "noeviction")
    assert caplog.text.count(f"Redis has {POLICY} {policy}") == (policy != "noeviction")


def test_a_redis_that_does_not_say_is_no_reason_to_stop(
    serve: Serve, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Hosted ones refuse CONFIG."""
    with Redis.from_url(redis_url) as redis:
        redis.execute_command(
            "ACL", "SETUSER", "guest", "on", ">secret", "~*", "&*", "+@all", "-config"
        )
        try:
            address = redis_url.partition("@")[2]
            with caplog.at_level(logging.INFO):
                client = serve(MEMIT_REDIS_URL=f"redis://guest:secret@{address}")
                wait_until(lambda: f"{POLICY} of Redis is not known" in caplog.text)
            assert client.get("/healthz").status_code == 200
        finally:
            redis.execute_command("ACL", "DELUSER", "guest")

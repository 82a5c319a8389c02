"""The client shows its key, by argument or environment, and says what is wrong with it."""

from __future__ import annotations

import pytest

from contracts.keys import LOCAL, KeyRequest, Scope
from memit_client import Forbidden, TooManyRequests, Unauthorized
from registry.registry import Registry
from tests.unit.client.both_ways import Connect


@pytest.fixture
def reader(registry: Registry) -> str:
    """A key that may read."""
    return registry.keys.create(KeyRequest(name="x", scopes=[Scope.READ]), LOCAL).key


def test_a_key_is_shown(
    connect: Connect, reader: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(url, api_key=reader)
    assert client.get_version("v0").seq == 0
    with pytest.raises(Forbidden, match="lacks the scope edit") as refused:
        client.add("Big Ben", "{} is in", "London")
    assert refused.value.status == 403
    monkeypatch.setenv("MEMIT_API_KEY", reader)
    assert connect(url).get_version("v0").seq == 0
    assert reader[23:] not in f"{client!r} {refused.value!r}"


def test_without_a_key(connect: Connect, reader: str, url: str) -> None:
    nobody = connect(url, api_key="")
    with pytest.raises(Unauthorized, match="a key is required") as refused:
        nobody.get_version("v0")
    assert refused.value.status == 401
    assert nobody.health().status == "ok"


def test_a_used_up_minute(connect: Connect, registry: Registry, reader: str, url: str) -> None:
    asked = KeyRequest(name="x", scopes=[Scope.READ], requests_per_minute=1)
    key = registry.keys.create(asked, LOCAL).key
    client = connect(url, api_key=key, max_retries=0)

    def asking_on() -> None:
        for _ in range(5):  # the turn of a minute may come between, once
            client.get_version("v0")

    with pytest.raises(TooManyRequests, match="1 requests of this minute") as refused:
        asking_on()
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 60

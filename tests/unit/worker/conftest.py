from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.unit.memit_core.examples import HPARAMS
from tests.unit.worker.chatting import TEMPLATE, loaded_with
from tests.unit.worker.workshop import Workshop

MakeWorkshop = Callable[..., Workshop]


@pytest.fixture
def make_workshop(registry_path: Path, redis_url: str) -> Iterator[MakeWorkshop]:
    with Redis.from_url(redis_url) as redis:
        yield lambda hparams=HPARAMS, loaded=None: Workshop(registry_path, redis, hparams, loaded)


@pytest.fixture
def workshop(make_workshop: MakeWorkshop) -> Workshop:
    return make_workshop()


@pytest.fixture
def chatting(make_workshop: MakeWorkshop) -> Workshop:
    """One whose model has a chat template."""
    return make_workshop(loaded=loaded_with(TEMPLATE))

"""Clients of a real service on a real port; the tests play its worker, as those of the CLI do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from registry.registry import Registry
from tests.unit.cli.conftest import editor, registry, working  # noqa: F401 - fixtures
from tests.unit.client.both_ways import WAYS, Connect, connected
from tests.unit.service.conftest import Serve, serve, stopping  # noqa: F401 - fixtures
from tests.unit.service.worker_peer import Editor, Engine, says


@pytest.fixture
def url(serve: Serve, editor: Editor) -> str:  # noqa: F811 - fixtures
    return str(serve(poll_seconds=0.05).base_url)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(way: str) -> Iterator[Connect]:
    """Clients of any URL, of one kind; closed in the end."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(connected(way, url, **options))


@pytest.fixture
def client(connect: Connect, url: str) -> Any:
    return connect(url)


@pytest.fixture
def engine(redis_url: str, registry: Registry, editor: Editor) -> Iterator[Engine]:  # noqa: F811 - a fixture
    """Says " Rome" and "." to everything, whatever the version."""
    engine = Engine(redis_url, says(" Rome", "."))
    with engine.running():
        engine.report(versions=[registry.versions.resolve("v0")])
        yield engine

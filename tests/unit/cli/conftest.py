"""The command line against a real service on a real port; the tests play its worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from cli.main import app
from contracts.edits import Progress
from contracts.settings import Settings
from contracts.transport import progress_stream
from registry.folder_store import FolderStore
from registry.registry import Registry
from tests.unit.cli.serving import serving
from tests.unit.cli.waiting import wait_until
from tests.unit.service.worker_peer import Editor

Memit = Callable[..., Result]
Working = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def registry(registry_path: Path) -> Registry:
    return Registry(FolderStore(registry_path))


@pytest.fixture
def editor(registry: Registry) -> Editor:
    """The editing side of a worker; the untouched model is v0 and active."""
    editor = Editor(registry)
    editor.publish_base()
    return editor


@pytest.fixture
def url(redis_url: str, tmp_path: Path, editor: Editor) -> Iterator[str]:
    settings = {"MEMIT_REDIS_URL": redis_url, "home": tmp_path, "start_timeout": 2}
    with serving(Settings.model_validate(settings)) as url:
        yield url


@pytest.fixture
def memit(url: str) -> Memit:
    """Runs `memit ARGUMENTS` against the service, as from a shell."""

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner(env={"MEMIT_URL": url}).invoke(app, list(arguments), input=stdin)

    return run


def followed(client: redis.Redis) -> bool:
    """Whether somebody waits for news on a stream."""
    clients = client.client_list()
    return any(one["cmd"] == "xread" and "b" in one["flags"] for one in clients)


@pytest.fixture
def working(redis_url: str, registry: Registry, editor: Editor) -> Working:
    """Takes every accepted edit to its end while the context lasts, telling its progress."""

    @contextmanager
    def work(*told: Progress, **how: Any) -> Iterator[None]:
        over = threading.Event()

        def loop() -> None:
            with redis.Redis.from_url(redis_url) as client:
                while not over.wait(0.02):
                    for edit_id in registry.edits.unfinished():
                        for progress in told:
                            # Only the newest is told to who comes late.
                            wait_until(lambda: over.is_set() or followed(client))
                            row = {"progress": progress.model_dump_json()}
                            client.xadd(progress_stream(edit_id), row)
                        editor.run(edit_id, **how)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    return work

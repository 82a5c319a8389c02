"""`memit webhooks` against a real service and a real receiver."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.settings import Settings
from tests.unit.cli.conftest import Memit
from tests.unit.cli.serving import serving
from tests.unit.cli.waiting import wait_until
from tests.unit.service.receiver import LOOPBACK, Receiver, receiving
from tests.unit.service.worker_peer import Editor


@pytest.fixture
def url(redis_url: str, tmp_path: Path, editor: Editor) -> Iterator[str]:
    given = {"MEMIT_REDIS_URL": redis_url, "home": tmp_path, "webhook_allow_private": LOOPBACK}
    with serving(Settings.model_validate(given)) as url:
        yield url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def test_from_one_command_to_the_next(memit: Memit, receiver: Receiver) -> None:
    made = memit("webhooks", "create", receiver.url, "--event", "alias.moved", "--alias", "canary")
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    found = re.match(r"(webhook-[0-9a-f]{16}) to http://127.0.0.1:\d+/hook", made.stderr)
    assert found is not None
    assert "not shown again" in made.stderr
    assert secret not in made.stderr
    webhook = found[1]

    tried = memit("webhooks", "test", webhook)
    assert re.fullmatch(r"event-[0-9a-f]{20} was delivered: 204 in 0\.\d\d s\n", tried.stdout)
    assert receiver.got[0].verified(secret)["type"] == "ping"
    receiver.answers = [(500, {})]
    failed = memit("webhooks", "test", webhook)
    assert failed.exit_code == 1
    assert "was not delivered: answered 500" in failed.stderr
    assert json.loads(memit("webhooks", "test", webhook, "--json").stdout)["delivered"]

    assert re.search(r"alias\.moved │ canary .* live  │ none", memit("webhooks", "list").stdout)
    assert memit("alias", "canary", "v0").exit_code == 0
    receiver.wait_for(4)
    wait_until(lambda: "alias.moved delivered" in memit("webhooks", "list").stdout)
    (listed,) = json.loads(memit("webhooks", "list", "--json").stdout)
    assert (listed["id"], listed["aliases"]) == (webhook, ["canary"])
    assert secret[6:] not in memit("webhooks", "list").output

    assert memit("webhooks", "delete", webhook).stdout == f"{webhook} is deleted\n"
    assert "deleted" in memit("webhooks", "list").stdout
    over = memit("webhooks", "test", webhook)
    assert over.exit_code == 1
    assert "is over" in over.stderr


def test_what_is_wrong_is_named(memit: Memit) -> None:
    refused = memit("webhooks", "create", "http://10.0.0.1/")
    assert refused.exit_code == 1
    assert "/url is at 10.0.0.1, which is not a public address" in refused.stderr
    refused = memit("webhooks", "create", "https://example.com/", "--event", "edit.begun")
    assert "/events/0" in refused.stderr
    assert memit("webhooks", "delete", "webhook-0").exit_code == 1

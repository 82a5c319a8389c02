"""docs/webhooks.md: its receiver runs as printed, and its table of pauses is the code's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.limits import MAX_WEBHOOK_URL_CHARS, MAX_WEBHOOKS
from contracts.settings import Settings
from contracts.webhooks import AliasEventData, EditEventData, EventType
from service.webhooks.courier import LOCK_SECONDS
from service.webhooks.schedule import PAUSES
from service.webhooks.sender import SECONDS
from tests.unit.cli.serving import serving
from tests.unit.service.conftest import Service

PAGE = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()
UNITS = {"s": 1, "min": 60, "h": 3_600}


def test_the_receiver_verifies_what_the_service_sends(
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"MEMIT_REDIS_URL": redis_url, "home": tmp_path, "webhook_allow_private": "127.0.0.0/8"}
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await names["app"](scope, receive, send)  # which needs the secret first

    settings = Settings.model_validate(given)
    receiver = Service(settings, app)  # type: ignore[arg-type]
    with (
        serving(settings) as url,
        httpx2.Client(base_url=url, trust_env=False) as client,
    ):
        asked = {"url": str(receiver.client.base_url.join("/memit"))}
        made, other = (client.post("/webhooks", json=asked).json() for _ in range(2))
        monkeypatch.setenv("MEMIT_WEBHOOK_SECRET", made["secret"])
        exec(compile(example, "docs/webhooks.md", "exec"), names)  # noqa: S102 - our own page
        sent = client.post(f"/webhooks/{made['id']}/test").json()
        forged = client.post(f"/webhooks/{other['id']}/test").json()
    receiver.stop()
    receiver.join()
    assert (sent["delivered"], sent["status"]) == (True, 200)
    assert (forged["delivered"], forged["status"]) == (False, 500)
    said = capsys.readouterr().out
    assert said == f"{sent['event']} ping {{'webhook': '{made['id']}'}}\n"


def test_the_pauses_are_those_of_the_code() -> None:
    (row,) = re.findall(r"^\| next in \| (.*) \| given up", PAGE, re.MULTILINE)
    told = [cell.split() for cell in row.split(" | ")]
    assert tuple(float(number) * UNITS[unit] for number, unit in told) == PAUSES
    assert f"within {SECONDS:g} seconds" in PAGE
    assert f"after {LOCK_SECONDS:g} seconds" in PAGE
    assert f"There may be {MAX_WEBHOOKS} webhooks" in PAGE
    assert f"over {MAX_WEBHOOK_URL_CHARS:,} characters" in PAGE


def test_every_event_and_field_is_listed() -> None:
    table = PAGE.partition("| `type` |")[2].partition("\n\n")[0]
    listed = set(re.findall(r"`([\w.]+)`", table))
    fields = EditEventData.model_fields.keys() | AliasEventData.model_fields.keys()
    assert listed == {*EventType, *fields, "webhook", "data"}

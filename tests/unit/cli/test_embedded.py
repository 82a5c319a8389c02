"""`memit serve` before anything runs: settings, the lock of the home, the port."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.embedded import embedded, environment_of, url_of
from cli.embedded_redis import EmbeddedRedis
from cli.errors import CommandFailed
from cli.main import app
from contracts.settings import Settings


def silent(line: str) -> None:
    """A report that nobody reads."""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    return {"home": tmp_path, "port": 0, "MEMIT_REDIS_URL": None}


def test_a_second_one_on_the_same_home_is_refused_until_the_first_ends(
    given: dict[str, Any],
) -> None:
    settings = Settings.model_validate(given)
    with embedded(settings, silent) as house:
        with (
            pytest.raises(CommandFailed, match=f"in use by memit serve at {house.url}") as failed,
            embedded(settings, silent),
        ):
            pytest.fail("two on one home")
        assert "choose another --home" in str(failed.value)
    with embedded(settings, silent):
        pass


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(
            app, ["serve", "--port", str(port), "--home", str(tmp_path)], env={"REDIS_URL": ""}
        )
    assert result.exit_code == 1
    assert f"port {port} of 127.0.0.1 is in use" in result.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--device", "gpu"], "device: Input should be 'auto', 'cpu', 'cuda' or 'mps'"),
        (["--dtype", "int4"], "dtype: Input should be"),
        (["--port", "70000"], "port: Input should be less than or equal to 65535"),
        (["--host", "203.0.113.7", "--port", "0"], "cannot listen on 203.0.113.7"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, option: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--home", str(tmp_path), *option])
    assert result.exit_code == 1
    assert message in result.stderr


def test_redis_is_ours_unless_one_is_named(given: dict[str, Any]) -> None:
    with embedded(Settings.model_validate(given), silent) as house:
        redis, worker, service = house.supervisor.children
        assert isinstance(redis, EmbeddedRedis)
        for child in (worker, service):
            assert child.env is not None
            assert child.env["MEMIT_REDIS_URL"] == redis.url
    given["MEMIT_REDIS_URL"] = "redis://elsewhere:6379"
    with embedded(Settings.model_validate(given), silent) as house:
        assert [child.name for child in house.supervisor.children] == ["worker", "service"]
        assert house.supervisor.children[0].env["MEMIT_REDIS_URL"] == "redis://elsewhere:6379"  # type: ignore[index]


def test_a_child_reads_exactly_the_settings_of_its_parent(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMIT_HPARAMS", "/from/the/environment.json")
    monkeypatch.setenv("REDIS_URL", "redis://from-the-environment")
    settings = Settings.model_validate(given | {"device": "cpu", "max_batch": 3})
    settings = settings.model_copy(update={"hparams": None})
    environment = environment_of(settings)
    for name in ("MEMIT_HPARAMS", "REDIS_URL"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_where_a_client_reaches_it() -> None:
    assert url_of("127.0.0.1", 8000) == "http://127.0.0.1:8000"
    assert url_of("0.0.0.0", 8000) == "http://127.0.0.1:8000"  # noqa: S104
    assert url_of("::", 8000) == "http://[::1]:8000"
    assert url_of("memit.local", 80) == "http://memit.local:80"

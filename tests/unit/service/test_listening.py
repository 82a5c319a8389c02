"""Beyond this machine nothing listens without a key, and the message says how to make one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contracts.keys import LOCAL, KeyRequest, Scope
from contracts.settings import Settings
from registry.registry import Registry
from service.listening import is_loopback, prepare_keys

KEY = f"memit_{'a' * 16}_{'b' * 64}"


def settings(home: Path, **given: Any) -> Settings:
    return Settings(home=home, **given)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_this_machine_needs_no_key(tmp_path: Path, host: str) -> None:
    assert is_loopback(host)
    prepare_keys(settings(tmp_path, host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", ""])  # noqa: S104
def test_everybody_else_does(tmp_path: Path, registry: Registry, host: str) -> None:
    with pytest.raises(ValueError, match=r"memit keys create .*--scope admin --home"):
        prepare_keys(settings(tmp_path, host=host))
    prepare_keys(settings(tmp_path, host=host, auth="off"))
    registry.keys.create(KeyRequest(name="x", scopes=[Scope.ADMIN]), LOCAL)
    prepare_keys(settings(tmp_path, host=host))


def test_required_is_required_everywhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MEMIT_AUTH=required needs a key"):
        prepare_keys(settings(tmp_path, auth="required"))


def test_the_first_key_comes_from_a_file(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "first-key"
    file.write_text(f"{KEY}\n")
    for _ in range(2):
        prepare_keys(settings(tmp_path, host="0.0.0.0", first_key_file=file))  # noqa: S104
    (key,) = registry.keys.all()
    assert (key.id, key.scopes) == ("key-" + "a" * 16, [Scope.ADMIN])
    registry.keys.revoke(key.id, LOCAL)
    prepare_keys(settings(tmp_path, host="0.0.0.0", first_key_file=file))  # noqa: S104
    assert registry.keys.revoked(key.id), "a restart does not bring it back"


def test_a_file_without_a_key_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "first-key"
    with pytest.raises(ValueError, match=f"{file}: No such file"):
        prepare_keys(settings(tmp_path, first_key_file=file))
    file.write_text("hunter2")
    with pytest.raises(ValueError, match=f"{file}: not of the form") as refused:
        prepare_keys(settings(tmp_path, first_key_file=file))
    assert "hunter2" not in str(refused.value)


def test_the_process_refuses_to_start(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MEMIT_HOME": str(tmp_path),
        "MEMIT_REDIS_URL": "redis://nowhere",
        "MEMIT_HOST": "0.0.0.0",  # noqa: S104
    }
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "memit keys create --name me --scope admin" in ended.stderr
    assert "Traceback" not in ended.stderr

"""What a program imports, and that both clients have it all."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys

import pytest

import memit_client
from memit_client import AsyncMemit, Memit
from memit_client.methods import Methods
from memit_client.transport import run

METHODS = [name for name in vars(Methods) if not name.startswith("_")]


@pytest.mark.parametrize("name", METHODS)
def test_both_clients_have_every_method(name: str) -> None:
    blocking, coroutine = getattr(Memit, name), getattr(AsyncMemit, name)
    assert inspect.signature(blocking) == inspect.signature(coroutine)
    assert blocking.__doc__ == coroutine.__doc__
    assert blocking.__doc__
    assert not inspect.iscoroutinefunction(blocking)


@pytest.mark.parametrize("name", memit_client.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(memit_client, name).__name__ == name


def test_it_brings_nothing_heavy() -> None:
    code = (
        "import memit_client, sys; "
        "sys.exit({'torch', 'numpy', 'fastapi', 'redis', 'contracts'} & set(sys.modules) != set())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_what_never_suspends_can_be_run() -> None:
    with pytest.raises(RuntimeError, match="Blocking"):
        run(asyncio.sleep(0))

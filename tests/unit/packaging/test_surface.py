"""What a notebook imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import memit_core


@pytest.mark.parametrize("name", memit_core.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(memit_core, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(memit_core, "Edit0r")


def test_the_package_alone_imports_no_torch() -> None:
    """Commands that need none would wait seconds for it."""
    code = "import memit_core, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

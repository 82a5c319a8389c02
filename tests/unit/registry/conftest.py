from __future__ import annotations

from pathlib import Path

import pytest

from registry import Registry


@pytest.fixture
def registry(registry_path: Path) -> Registry:
    return Registry(registry_path)

from __future__ import annotations

from pathlib import Path

import pytest

from registry import FolderStore, Registry
from registry.store import Store
from tests.unit.registry.stores import MemoryStore


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, registry_path: Path) -> Store:
    return FolderStore(registry_path) if request.param == "folder" else MemoryStore()


@pytest.fixture
def registry(store: Store) -> Registry:
    return Registry(store)

"""Base models and editors of each family, shared by the tests of a module."""

from __future__ import annotations

import pytest
from hypothesis import settings

from memit_core.edit import Editor
from memit_core.loading import LoadedModel
from tests.tiny_models import TINY
from tests.unit.memit_core.examples import editor_of, loaded_tiny

# The same examples in every run, and no time limit on each: other work may slow the machine down.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="module", params=TINY)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """Every tiny model in turn; its `name` is the family's."""
    return loaded_tiny(request.param)


@pytest.fixture(scope="module")
def editor(loaded: LoadedModel) -> Editor:
    return editor_of(loaded)


@pytest.fixture(scope="module")
def any_editor() -> Editor:
    """An editor for what does not depend on the family."""
    return editor_of(loaded_tiny("llama"))

"""MEMIT, mass-editing memory in a transformer, usable from a notebook.

from memit_core import Editor, Fact, group_facts, load_model
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memit_core.edit import Editor
    from memit_core.errors import MemitError
    from memit_core.facts import Fact, Group, group_facts
    from memit_core.hparams import HParams
    from memit_core.loading import LoadedModel, adopt_model, load_model

__all__ = [
    "Editor",
    "Fact",
    "Group",
    "HParams",
    "LoadedModel",
    "MemitError",
    "adopt_model",
    "group_facts",
    "load_model",
]

_MODULES = {
    "Editor": "edit",
    "Fact": "facts",
    "Group": "facts",
    "HParams": "hparams",
    "LoadedModel": "loading",
    "MemitError": "errors",
    "adopt_model": "loading",
    "group_facts": "facts",
    "load_model": "loading",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch takes seconds, and most commands do without it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"memit_core.{_MODULES[name]}"), name)

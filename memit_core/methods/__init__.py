"""Editing methods, by the name under which a registry keeps what they wrote."""

from __future__ import annotations

from collections.abc import Callable

from memit_core.edit import Editor
from memit_core.methods.alphaedit import AlphaEdit
from memit_core.methods.ft import FineTuning
from memit_core.methods.memit import Memit
from memit_core.methods.mend import Mend
from memit_core.methods.method import Method
from memit_core.methods.rome import Rome
from memit_core.methods.ultraedit import UltraEdit

__all__ = ["METHODS", "Memit", "Mend", "Method"]

METHODS: dict[str, Callable[[Editor], Method]] = {
    Memit.name: Memit,
    Rome.name: Rome,
    FineTuning.name: FineTuning,
    AlphaEdit.name: AlphaEdit,
    UltraEdit.name: UltraEdit,
    Mend.name: Mend,
}

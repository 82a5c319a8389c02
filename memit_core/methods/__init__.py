"""Editing methods, by the name under which a registry keeps what they wrote."""

from __future__ import annotations

from collections.abc import Callable

from memit_core.edit import Editor
from memit_core.methods.memit import Memit
from memit_core.methods.mend import Mend
from memit_core.methods.method import Method

__all__ = ["METHODS", "Memit", "Mend", "Method"]

METHODS: dict[str, Callable[[Editor], Method]] = {
    Memit.name: Memit,
    Mend.name: Mend,
}

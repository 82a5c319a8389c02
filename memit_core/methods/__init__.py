"""Editing methods, by the name under which a registry keeps what they wrote."""

from __future__ import annotations

from collections.abc import Callable

from memit_core.edit import Editor
from memit_core.methods.memit import Memit
from memit_core.methods.method import Method

__all__ = ["METHODS", "Memit", "Method"]

METHODS: dict[str, Callable[[Editor], Method]] = {Memit.name: Memit}

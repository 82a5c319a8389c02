"""Facts that come in batches, each written upon those before: what papers call sequential editing.

The service needs none of it, since a version is solved from the base with all its facts; it is for
measuring what methods do to a model that they edit again and again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from memit_core.facts import Fact
from memit_core.methods.method import Method
from memit_core.progress import ProgressCallback
from memit_core.weights import Delta


class Writer(Protocol):
    """One model that is edited batch after batch."""

    def write(self, facts: Sequence[Fact], progress: ProgressCallback) -> dict[str, Delta]:
        """Write a batch upon those before.

        Returns:
            The changes of the base that hold all so far, by module path.

        Raises:
            InvalidFact, NonFinite, Cancelled: as `Method.solve`.
        """


@runtime_checkable
class Stacking(Protocol):
    """A method that writes upon what it wrote before."""

    def writer(self, options: Mapping[str, Any]) -> Writer:
        """A writer that begins at the base, with options as `Method.options` gives them."""


class Anew:
    """Solves all facts so far from the base each time, for a method that does not stack."""

    def __init__(self, method: Method, given: Mapping[str, Any]) -> None:
        self._method, self._given = method, given
        self._facts: list[Fact] = []

    def write(self, facts: Sequence[Fact], progress: ProgressCallback) -> dict[str, Delta]:
        self._facts += facts
        options = self._method.options(self._facts, self._given)
        return self._method.solve(self._facts, options, progress)


def writer_of(method: Method, given: Mapping[str, Any]) -> Writer:
    """How a method writes batches one after another.

    Args:
        given: options by name, as for `Method.options`.
    """
    if isinstance(method, Stacking):
        return method.writer(method.options([], given))
    return Anew(method, given)

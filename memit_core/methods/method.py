"""What an editing method is to everything that versions and serves what it writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from memit_core.facts import Fact
from memit_core.progress import ProgressCallback
from memit_core.weights import Delta


class Method(Protocol):
    """Writes facts into one base model, which it leaves as it is.

    What it gives is a function of the base, the facts and the options, whatever was solved before.
    """

    @property
    def name(self) -> str:
        """In digests and manifests."""

    @property
    def revision(self) -> int:
        """Raised when the same facts and options give other changes."""

    @property
    def ordered(self) -> bool:
        """Whether the changes depend on the order of the facts.

        Where they do not, the same live facts are the same weights in any order and after any
        history. Where they do, facts are written in the order of the ledger: a fact that comes is
        the last, and one that goes leaves the others in their order.
        """

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:
        """Make what every solution needs, unless it is there.

        Returns:
            Its digests by name, for the manifest.

        Raises:
            MemitError: it cannot be made of this model and corpus.
        """

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:
        """All that these facts are written with, JSON-ready.

        Args:
            given: what the edit asks for, by name; the rest is the method's to choose.

        Raises:
            UnknownOption: the method has no option of this name.
        """

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:
        """Those that `solve` would fail for, where it can tell one from the others."""

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        """The changes of the base that write all the facts, by module path.

        Args:
            options: as `options` gave them.

        Raises:
            InvalidFact: a fact cannot be written into this model.
            NonFinite: a change is not finite; names the subjects where it can.
            Cancelled: raised by `progress`.
        """

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        """SHA-256 in hex of all that `solve` depends on, besides the base."""

"""MEND (Mitchell et al., "Fast Model Editing at Scale", ICLR 2022) as one of the methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from memit_core.check_facts import check_written
from memit_core.edit import Editor
from memit_core.errors import MemitError, NonFinite, UnknownOption
from memit_core.facts import Fact, group_facts
from memit_core.methods.mend.gradients import token_gradients
from memit_core.methods.mend.reach import first_block
from memit_core.methods.mend.sums import RankOnes
from memit_core.methods.mend.trained import REVISION, load_trained
from memit_core.methods.mend.upper import Upper
from memit_core.progress import ProgressCallback
from memit_core.tokens import target_row
from memit_core.weights import Delta

TOLD = ("matrices", "rank", "steps", "data")
"""What a version says of the network, besides its digest."""
ROWS = 8
"""Facts whose gradients are taken together."""


class Mend:
    """Writes facts by a trained network, which makes an edit of each fact's gradient.

    The gradients are those of the base and the changes add up, so that facts may come in any order.

    Raises:
        MemitError: the editor names no trained network; or see `load_trained`.
    """

    name = "mend"
    revision = REVISION
    ordered = False

    def __init__(self, editor: Editor) -> None:
        if editor.network is None:
            raise MemitError(
                "the method mend needs a trained network: MEMIT_MEND=FILE, as memit train-mend "
                "makes it"
            )
        self._editor = editor
        self._trained = load_trained(editor.network, editor.loaded)

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:
        """Nothing is missing; the network's digest."""
        progress("prepare", 1, 1)
        return {"network": self._trained.digest}

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The network, and what it was made of; an edit has none of its own."""
        if given:
            raise UnknownOption(f"{self.name} has no option {min(given)!r}; it has none")
        told = {name: self._trained.config[name] for name in TOLD}
        return {"network": self._trained.digest, **told}

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:  # noqa: ARG002
        """None: a gradient that is not finite is seen as facts are written."""
        self._check(facts)
        return ()

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        """Σ over all tokens of all facts of -η g̃ ⊗ x̃, for every matrix.

        Raises:
            InvalidFact: a fact cannot be written into this model.
            NonFinite: a gradient or a change is not finite; names the subjects it is among.
            MemitError: the options name another network.
            Cancelled: raised by `progress`.
        """
        if options["network"] != self._trained.digest:
            raise MemitError(
                f"these facts were written by another network ({options['network'][:12]}) than "
                f"the one at hand ({self._trained.digest[:12]})"
            )
        self._check(facts)
        ordered = _ordered(facts)
        network, loaded = self._trained.network, self._editor.loaded
        upper = Upper(loaded.runnable(), first_block(loaded))
        sums = {path: RankOnes(shape) for path, shape in network.matrices.items()}
        for start in range(0, len(ordered), ROWS):
            progress("insert", start, len(ordered))
            chunk = ordered[start : start + ROWS]
            rows = [target_row(loaded.tokenizer, fact) for fact in chunk]
            tokens = token_gradients(upper, rows, sums)
            with torch.no_grad():
                for path, (left, right) in network.updates(tokens).items():
                    if not (left.isfinite().all() and right.isfinite().all()):
                        raise NonFinite("a gradient", [fact.subject for fact in chunk])
                    sums[path].add(left, right)
        progress("insert", len(ordered), len(ordered))
        return {path: total.delta() for path, total in sums.items()} if ordered else {}

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        """SHA-256 in hex of the network's digest and the facts."""
        contents = [fact.content for fact in _ordered(facts)]
        parts = [self.name, self.revision, options["network"], contents]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()

    def _check(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            check_written(self._editor.loaded, fact, self._editor.max_tokens)


def _ordered(facts: Sequence[Fact]) -> list[Fact]:
    """One order for a set of facts: a sum of floats depends on it."""
    return [fact for group in group_facts(facts) for fact in group.facts]

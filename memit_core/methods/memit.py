"""MEMIT (Meng et al., ICLR 2023) as one of the methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from memit_core.edit import Editor
from memit_core.errors import UnknownOption
from memit_core.facts import Fact, group_facts
from memit_core.hparams import from_dict
from memit_core.progress import ProgressCallback
from memit_core.revision import METHOD, METHOD_REVISION
from memit_core.weights import Delta

WEIGHT = "mom2_update_weight"


class Memit:
    """An editor's way of writing facts."""

    name = METHOD
    revision = METHOD_REVISION
    ordered = False

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:
        """Templates, covariance and its factors; digests of what the first two depend on."""
        self._editor.prepare(progress)
        preparation = self._editor.preparation
        preparation.factorise(progress)
        return {
            "templates": preparation.contexts_digest,
            "covariance": preparation.covariance_digest,
        }

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters, λ as it is for so many subjects or as given."""
        unknown = sorted(set(given) - {WEIGHT})
        if unknown:
            raise UnknownOption(f"{self.name} has no option {unknown[0]!r}; it has {WEIGHT}")
        return self._editor.hparams_of(group_facts(facts), given.get(WEIGHT)).as_dict()

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:
        """Facts of a subject whose z is not finite."""
        return unwritable(self._editor, facts, progress)

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        """See `Editor.solve`."""
        groups = group_facts(facts)
        return self._editor.solve(groups, progress, mom2_update_weight=options[WEIGHT])

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        """See `Editor.solution_digest`."""
        return self._editor.solution_digest(group_facts(facts), from_dict(dict(options)))


def unwritable(
    editor: Editor, facts: Sequence[Fact], progress: ProgressCallback
) -> Collection[Fact]:
    """Facts of a subject whose z, of this editor, is not finite."""
    groups = group_facts(facts)
    targets = editor.targets(groups, progress)
    return {
        fact
        for group, target in zip(groups, targets, strict=True)
        if not target.finite
        for fact in group.facts
    }

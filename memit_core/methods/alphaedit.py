"""AlphaEdit (Fang et al., ICLR 2025): MEMIT's z and layers, and changes kept out of what text uses.

P projects onto the directions in which the keys of ordinary text have little energy: the
eigenvectors of C, the mean of k kᵀ over text, whose eigenvalues are below a threshold. At each
layer, with the residual R split over those that remain,

    ΔW = R Kᵀ P (K Kᵀ P + Kₚ Kₚᵀ P + L2)⁻¹

where Kₚ are the keys of earlier batches, when batches are written one after another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from memit_core.edit import Editor, stacked
from memit_core.facts import Fact, group_facts
from memit_core.hparams import HParams, from_dict
from memit_core.insert import Insertion, edited
from memit_core.methods.current_targets import current_targets
from memit_core.methods.memit import unwritable
from memit_core.methods.null_space import NullSpace, NullSpaceSolver
from memit_core.methods.options import chosen
from memit_core.progress import ProgressCallback
from memit_core.weights import Delta

DEFAULTS: dict[str, float | None] = {"nullspace_threshold": None, "L2": None}
"""Published: 0.02 and 10, both in the units of the model's own keys. So another model needs its
own; what is left out follows the model."""
NULL_SHARE = 0.8
"""Of the directions, those that are written to where no threshold is given: on the default model
0.02 leaves 75 to 88% of them."""
L2_SHARE = 0.01
"""L2 over the mean squared norm of a key, where none is given."""
UNUSED = {
    "mom2_update_weight",
    "mom2_weight_per_subject",
    "mom2_update_weight_max",
    "bare_share",
    "reweight_rounds",
    "reweight_factor",
}
"""Hyperparameters of MEMIT that have no part in it; its z is optimised with the others."""


class AlphaEdit:
    """An editor's z and keys, solved in the null space of its covariance."""

    name = "alphaedit"
    revision = 1
    ordered = False

    def __init__(self, editor: Editor) -> None:
        self._base_editor = editor
        self._editors: dict[HParams, Editor] = {}
        self._spaces: dict[tuple[HParams, float | None], dict[int, NullSpace]] = {}

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:
        """Templates, covariance and its null space; digests of what the first two depend on."""
        options = self.options([], {})
        self.spaces(options, progress)
        preparation = self._editor(options).preparation
        return {
            "templates": preparation.contexts_digest,
            "covariance": preparation.covariance_digest,
        }

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Threshold and ridge, and the hyperparameters of z; the same for any number of facts."""
        own = chosen(self.name, self._base_editor.loaded, DEFAULTS, given)
        shared = self._base_editor.hparams.as_dict()
        return own | {name: value for name, value in shared.items() if name not in UNUSED}

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:
        """Facts of a subject whose z is not finite."""
        return unwritable(self._editor(self.options([], {})), facts, progress)

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        """All facts at once, so in no order; see `Method.solve`."""
        return self.writer(options).write(facts, progress) if facts else {}

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        """Of the own options, and of what MEMIT's solution with these z would depend on."""
        editor = self._editor(options)
        own = {name: options.get(name) for name in DEFAULTS}
        rest = editor.solution_digest(group_facts(facts), editor.hparams)
        parts = [self.name, self.revision, own, rest]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def writer(self, options: Mapping[str, Any]) -> _Writer:
        """See `Stacking.writer`."""
        return _Writer(self, self._editor(options), options)

    def _editor(self, options: Mapping[str, Any]) -> Editor:
        hparams = from_dict({n: value for n, value in options.items() if n not in DEFAULTS})
        if hparams not in self._editors:
            self._editors[hparams] = self._base_editor.with_hparams(hparams)
        return self._editors[hparams]

    def spaces(
        self, options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[int, NullSpace]:
        """The null space of each edited layer; made once for a threshold."""
        editor, threshold = self._editor(options), options.get("nullspace_threshold")
        key = (editor.hparams, threshold)
        if key not in self._spaces:
            covariance = editor.prepare(progress).covariance
            made: dict[int, NullSpace] = {}
            for layer, c in covariance.items():
                progress("null space", len(made), len(covariance))
                made[layer] = NullSpace(c, editor.loaded.device, threshold, NULL_SHARE)
            progress("null space", len(made), len(covariance))
            self._spaces[key] = made
        return self._spaces[key]


class _Writer:
    """Batch after batch: each z on the weights so far, the keys of all batches before spared."""

    def __init__(self, method: AlphaEdit, editor: Editor, options: Mapping[str, Any]) -> None:
        self._method, self._editor, self._options = method, editor, options
        self._solvers: dict[int, NullSpaceSolver] = {}
        self._solved: dict[str, Delta] = {}

    def write(self, facts: Sequence[Fact], progress: ProgressCallback) -> dict[str, Delta]:
        editor, groups = self._editor, group_facts(facts)
        if self._solved:
            model = edited(editor.loaded, self._solved)
            z = current_targets(editor, model, editor.hparams, groups, progress)
        else:
            z = stacked(groups, editor.targets(groups, progress))
        if not self._solvers:
            spaces = self._method.spaces(self._options, progress)
            self._solvers = {layer: self._solver(space) for layer, space in spaces.items()}
        prepared = replace(editor.prepare(progress), solvers=self._solvers)
        insertion = Insertion(editor.loaded, prepared, editor.hparams, groups, z, self._solved)
        self._solved = insertion.run(progress)
        return self._solved

    def _solver(self, space: NullSpace) -> NullSpaceSolver:
        l2 = self._options.get("L2")
        return NullSpaceSolver(space, L2_SHARE * space.mean_square if l2 is None else l2)

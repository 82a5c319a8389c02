"""UltraEdit (Gu et al., 2505.14679): a closed form of activations and gradients; no z, no subject.

Of each edited module, at every token that predicts one of a target's: h, its input, and g, the
gradient of the loss at its output. Both are normalised, entry by entry, by the mean and standard
deviation of all that the module has met so far; with ĥ and ĝ,

    V = -η ‖ĥ‖² ĝ        ΔWᵀ = (Hᵀ H + 1)⁻¹ Hᵀ V

where the rows of H are the h as they are. The modules are MLP output projections, as the paper has
it for GPT-J and Mistral, since versions are made of those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from memit_core.check_facts import check_written
from memit_core.decoder import Decoder
from memit_core.edit import Editor
from memit_core.errors import NonFinite
from memit_core.facts import Fact
from memit_core.insert import edited
from memit_core.methods.features import Features, Normaliser, features_of
from memit_core.methods.options import chosen
from memit_core.progress import ProgressCallback
from memit_core.solve import solve_device
from memit_core.weights import Delta, Dense, summed

RATE = 1e-6
"""η, published for models of 7B and 8B."""
WIDTH = 14_336
"""Of the keys in those models. ‖ĥ‖² grows with the width, so that η · width is kept."""
FIRST, LAST = 18 / 28, 26 / 28
"""The edited blocks, of the model's: published for GPT-J."""


class UltraEdit:
    """One step against the gradient in several matrices, of all facts of a batch together."""

    name = "ultraedit"
    revision = 1
    ordered = False

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:  # noqa: ARG002
        """Nothing is needed."""
        return {}

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Blocks, rate, and how many facts run together; the same for any number of facts."""
        loaded = self._editor.loaded
        depth = len(loaded.structure.blocks)
        layers = list(range(int(FIRST * depth), min(int(LAST * depth) + 1, depth)))
        rate = RATE * WIDTH / loaded.structure.intermediate
        defaults = {"layers": layers, "lr": rate, "batch_size": 64}
        return chosen(self.name, loaded, defaults, given)

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:  # noqa: ARG002
        """None can be told from the others.

        Raises:
            InvalidFact: a fact cannot be tokenised as needed.
        """
        for fact in facts:
            check_written(self._editor.loaded, fact, self._editor.max_tokens)
        return ()

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        """See `Method.solve`."""
        return self.writer(options).write(facts, progress) if facts else {}

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        """Of the facts as a set."""
        parts = [self.name, self.revision, dict(options), sorted(fact.content for fact in facts)]
        data = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(data.encode()).hexdigest()

    def writer(self, options: Mapping[str, Any]) -> _Writer:
        """See `Stacking.writer`; what normalises goes on from batch to batch."""
        return _Writer(self._editor, options)


class _Writer:
    """The matrices so far, and the statistics of what they have met."""

    def __init__(self, editor: Editor, options: Mapping[str, Any]) -> None:
        self._editor, self._options = editor, options
        paths = [editor.structure.projections[layer] for layer in options["layers"]]
        self._met = {path: Normaliser() for path in paths}
        self._solved: dict[str, Delta] = {}

    def write(self, facts: Sequence[Fact], progress: ProgressCallback) -> dict[str, Delta]:
        editor = self._editor
        for fact in facts:
            check_written(editor.loaded, fact, editor.max_tokens)
        ordered = sorted(facts, key=lambda fact: fact.content)
        decoder = Decoder(edited(editor.loaded, self._solved))
        size = self._options["batch_size"]
        found = features_of(decoder, list(self._met), ordered, editor.max_tokens, size, progress)
        device = solve_device(editor.loaded.device)
        for path, features in found.items():
            self._met[path].update(features)
            change = shift(features, self._met[path], self._options["lr"], device)
            if not change.isfinite().all():
                raise NonFinite("the weight update")
            self._solved[path] = summed(self._solved.get(path), Dense(change.float().cpu()))
        return dict(self._solved)


def shift(
    features: Features, normaliser: Normaliser, rate: float, device: torch.device
) -> torch.Tensor:
    """ΔW [d, m] float64 of one module."""
    inputs, slopes = normaliser.normalised(features)
    h = features.inputs.to(device)
    wanted = -rate * inputs.square().sum(1, keepdim=True) * slopes
    # (Hᵀ H + 1)⁻¹ Hᵀ = Hᵀ (H Hᵀ + 1)⁻¹: the smaller of the two is solved.
    if len(h) <= h.shape[1]:
        small = h @ h.T
        small.diagonal().add_(1)
        return torch.cholesky_solve(wanted.to(device), torch.linalg.cholesky(small)).T @ h
    whole = h.T @ h
    whole.diagonal().add_(1)
    solved: torch.Tensor = torch.cholesky_solve(
        h.T @ wanted.to(device), torch.linalg.cholesky(whole)
    )
    return solved.T

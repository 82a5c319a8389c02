"""A version's changes put into a model's own weights, for good."""

from __future__ import annotations

import torch

from memit_core.loading import LoadedModel
from memit_core.weights import Solved, served_weight


@torch.no_grad()
def merge(loaded: LoadedModel, solved: Solved) -> None:
    """Let the model's own weights be those that a worker serves; it is no base any more then."""
    transposed = loaded.structure.transposed
    for path, delta in solved.items():
        weight = loaded.model.get_submodule(path).weight
        weight.copy_(served_weight(weight, delta, transposed))

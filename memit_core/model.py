"""A model to run: its weights, where its parts are, and the tokenizer that it reads by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from memit_core.structure import Structure


@dataclass(frozen=True)
class Model:
    """What every forward needs together; the weights are those that the view has at the time.

    `view` is a transformers model, of a base always a view (`memit_core.views`).
    """

    view: Any
    structure: Structure
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Where token ids, masks and positions go: to the embeddings."""
        first: torch.Tensor = next(self.view.get_input_embeddings().parameters())
        return first.device

    def device_of(self, block: int) -> torch.device:
        """Where a block computes, and leaves its states; -1 is the last one."""
        path = self.structure.blocks[block]
        first: torch.Tensor = next(self.view.get_submodule(path).parameters())
        return first.device

    def with_view(self, view: Any) -> Model:
        """The same model with other weights."""
        return replace(self, view=view)

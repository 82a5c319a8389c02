"""What the network is trained for: edits that take, and other text that stays.

The loss of some facts written together is 0.1 times the mean of -log p(target) after their own
prompts and paraphrases, and KL(base ‖ edited) of the next token, the mean over unrelated text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from memit_core.loading import LoadedModel
from memit_core.methods.mend.gradients import target_losses, token_gradients
from memit_core.methods.mend.network import Network
from memit_core.methods.mend.reach import first_block
from memit_core.methods.mend.upper import Upper
from memit_core.tokens import Row

EDIT_WEIGHT = 0.1
"""As published."""


@dataclass(frozen=True)
class Lesson:
    """Facts that are written together, and what is asked of the edited model."""

    written: Sequence[Row]
    """Their prompts with their targets."""
    asked: Sequence[Row]
    """The same, and paraphrases with the targets."""
    unrelated: Sequence[Row]


@dataclass(frozen=True)
class Loss:
    """Of one lesson, or the mean of several; in nats."""

    edit: torch.Tensor
    locality: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        return EDIT_WEIGHT * self.edit + self.locality


class Losses:
    """Losses of lessons on one base, under edits by one network."""

    def __init__(self, loaded: LoadedModel, network: Network) -> None:
        self._transposed = loaded.structure.transposed
        self._network = network
        self._upper = Upper(loaded.runnable(), first_block(loaded), keep=True)

    def of(self, lesson: Lesson, *, observe: bool = False) -> Loss:
        """The loss after the lesson's facts are written, differentiable by the network.

        Args:
            observe: whether the normalisers take in the facts' gradients first.
        """
        upper, network = self._upper, self._network
        tokens = token_gradients(upper, lesson.written, network.matrices)
        if observe:
            network.observe(tokens)
        weights = {
            path: self._changed(upper.weight(path), left @ right.T)
            for path, (left, right) in network.updates(tokens).items()
        }
        hidden = upper.with_weights(weights, upper.before(lesson.asked))
        edit = target_losses(upper, lesson.asked, hidden).mean()
        return Loss(edit, self._locality(weights, lesson.unrelated))

    def _changed(self, base: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """As `memit_core.weights.served_weight`, with gradients."""
        change = change.T if self._transposed else change
        return (base.to(change.dtype) + change).to(base.dtype)

    def _locality(self, weights: dict[str, torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        upper = self._upper
        before = upper.before(rows)
        at = [i for i, row in enumerate(rows) for _ in row.ids]
        positions = [p for row in rows for p in range(len(row.ids))]
        with torch.no_grad():
            base = self._log_p(upper(before)[at, positions])
        edited = self._log_p(upper.with_weights(weights, before)[at, positions])
        return functional.kl_div(edited, base, reduction="batchmean", log_target=True)

    def _log_p(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._upper.decoder.logits(hidden)
        exact = torch.promote_types(logits.dtype, torch.float32)
        return functional.log_softmax(logits, -1, dtype=exact)

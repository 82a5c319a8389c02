"""The blocks from the first changed one on, which can run with other weights.

Nothing below depends on what MEND changes: the states there are computed once a row, and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence

from memit_core.decoder import Call, Decoder, Tokens
from memit_core.model import Model
from memit_core.past import Past
from memit_core.tokens import Row, collate

KEPT_BYTES = 1 << 29
"""Of states below, at most."""


@dataclass(frozen=True)
class Before:
    """Rows before the first changed block, padded on the right."""

    rows: Sequence[Row]
    hidden: torch.Tensor
    """[rows, width, d]."""
    calls: Sequence[Call]


class Upper(nn.Module):
    """Runs rows from the block `first` on.

    Args:
        model: in a view of its own; hooks on it fire.
        keep: whether states below are kept, for rows that come again.
    """

    def __init__(self, model: Model, first: int, *, keep: bool = False) -> None:
        super().__init__()
        self.view = model.view
        self.decoder = Decoder(model)
        self.first = first
        self._keeps = keep
        self._left = KEPT_BYTES if keep else 0
        self._kept: dict[tuple[int, ...], torch.Tensor] = {}

    @torch.no_grad()
    def before(self, rows: Sequence[Row]) -> Before:
        """Run the blocks below, where that was not done."""
        known = {row.ids: self._kept[row.ids] for row in rows if row.ids in self._kept}
        missing = [row for row in rows if row.ids not in known]
        parts = [missing] if missing else []
        if self._keeps:  # what is kept must not hang on the rows that happened to run beside it
            parts = [[row] for row in missing]
        for part in parts:
            hidden, calls = self._open(part)
            hidden = self.decoder.run(hidden, calls, 0, self.first - 1)
            for row, states in zip(part, hidden, strict=True):
                known[row.ids] = self._keep(row, states[: len(row.ids)].clone())
        _, calls = self._open(rows)
        hidden = pad_sequence([known[row.ids] for row in rows], batch_first=True)
        return Before(rows, hidden, calls)

    def _open(self, rows: Sequence[Row]) -> tuple[torch.Tensor, Sequence[Call]]:
        batch = collate(rows, self.decoder.model.device)
        ids, mask, positions = batch.input_ids, batch.attention_mask, batch.position_ids
        return self.decoder.open(Tokens(ids, mask, positions, Past(self.decoder.depth)))

    def _keep(self, row: Row, states: torch.Tensor) -> torch.Tensor:
        if self._left >= states.nbytes:
            self._left -= states.nbytes
            self._kept[row.ids] = states
        return states

    def forward(self, before: Before) -> torch.Tensor:
        """States after the last block, [rows, width, d]."""
        last = self.decoder.depth - 1
        return self.decoder.run(before.hidden, before.calls, self.first, last)

    def with_weights(self, weights: Mapping[str, torch.Tensor], before: Before) -> torch.Tensor:
        """The same with other weights, by module path; gradients flow to them."""
        named = {f"view.{path}.weight": weight for path, weight in weights.items()}
        hidden: torch.Tensor = functional_call(self, named, (before,))
        return hidden

    def weight(self, path: str) -> torch.Tensor:
        """The base's weight of a matrix, as it lies there."""
        weight: torch.Tensor = self.view.get_submodule(path).weight
        return weight

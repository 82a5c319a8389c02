"""What of a row still changes when δ does: the tokens from the subject's last one on.

δ is added to the last edited layer's output at the subject's last token. Below that layer nothing
depends on it, and neither do the tokens before: their keys and values above are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memit_core.decoder import Call, Decoder, Tokens
from memit_core.past import Past
from memit_core.tokens import Row
from memit_core.transformers_internals import KeysValues
from memit_core.walk import Walk


@dataclass(frozen=True)
class Live:
    """Rows from their subject's last token on, before the block above the last edited layer."""

    decoder: Decoder
    tokens: Tokens
    calls: Sequence[Call]
    hidden: torch.Tensor
    """[rows, width, d], in the decoder's dtype; column 0 is the subject's last token."""
    layer: int

    def above(self, added: torch.Tensor) -> torch.Tensor:
        """Hidden states after the last block with `added` [rows, d] at the subject's last token."""
        first = self.hidden[:, :1] + added.to(self.hidden.dtype)[:, None]
        hidden = torch.cat([first, self.hidden[:, 1:]], dim=1)
        return self.decoder.run(hidden, self.calls, self.layer + 1, self.decoder.depth - 1)

    def select(self, rows: torch.Tensor) -> Live:
        """Some of the rows, without what their neighbours needed."""
        tokens = self.tokens.select(rows)
        _, calls = self.decoder.open(tokens)
        return Live(self.decoder, tokens, calls, self.hidden[rows], self.layer)


def live_rows(
    exact: Decoder, fast: Decoder, walks: Sequence[Sequence[Row]], layer: int
) -> tuple[Live, torch.Tensor]:
    """Rows ready for the optimisation of δ at `layer`.

    Args:
        exact: runs the blocks up to `layer`; what z starts from.
        fast: runs the blocks above, in the precision of the optimisation.
        walks: rows that go together, such as those of one context.

    Returns:
        The rows of all walks one after another; and the states at the subject's last token after
        block `layer`, [rows, d] float32.
    """
    rows = [row for walk in walks for row in walk]
    before = max(row.lookup for row in rows)
    width = max(len(row.ids) - row.lookup for row in rows)
    parts = [_part(exact, fast, walk, layer, before, width) for walk in walks]
    hidden = torch.cat([part[0] for part in parts])
    kept = {
        block: (
            torch.cat([part[1][block][0] for part in parts]),
            torch.cat([part[1][block][1] for part in parts]),
        )
        for block in range(layer + 1, exact.depth)
        if before
    }
    tokens = _tokens(rows, before, width, Past(fast.depth, before, kept), fast.model.device)
    _, calls = fast.open(tokens)
    return Live(fast, tokens, calls, hidden.to(fast.dtype), layer), hidden[:, 0].float()


def _part(
    exact: Decoder, fast: Decoder, rows: Sequence[Row], layer: int, before: int, width: int
) -> tuple[torch.Tensor, dict[int, KeysValues]]:
    """States of the live tokens [rows, width, d], and keys and values before them by block."""
    device = exact.model.device_of(layer)
    lookup = torch.tensor([row.lookup for row in rows], device=device)
    last = torch.tensor([len(row.ids) - 1 for row in rows], device=device)
    shortest = min(row.lookup for row in rows)
    walk = Walk(exact, [row.ids for row in rows], apart=max(shortest - 1, 0))
    walk.advance(layer)
    positions = lookup[:, None] + torch.arange(width, device=device)
    every = torch.arange(len(rows), device=device)[:, None]
    live = walk.states(every, torch.minimum(positions, last[:, None]))
    if not before:
        return live, {}
    # The tokens before, padded on the left, so that the live ones follow without a gap.
    slots = (lookup[:, None] + torch.arange(-before, 0, device=device)).clamp_min(0)
    kept: dict[int, KeysValues] = {}

    def align(block: int, attended: KeysValues) -> None:
        index = slots[:, None, :, None]
        keys, values = (torch.take_along_dim(side, index, dim=2) for side in attended)
        kept[block] = (keys, values)

    beginnings = [row.ids[: max(row.lookup, 1)] for row in rows]
    above = Walk(fast, beginnings, apart=walk.shared)
    above.start(walk)
    above.advance(exact.depth - 1, align)
    return live, kept


def _tokens(
    rows: Sequence[Row], before: int, width: int, past: Past, device: torch.device
) -> Tokens:
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.ones(len(rows), before + width, dtype=torch.int64)
    for i, row in enumerate(rows):
        tail = row.ids[row.lookup :]
        ids[i, : len(tail)] = torch.tensor(tail)
        mask[i, : before - row.lookup] = 0
    lookup = torch.tensor([row.lookup for row in rows])
    positions = lookup[:, None] + torch.arange(width)
    return Tokens(ids.to(device), mask.to(device), positions.to(device), past)

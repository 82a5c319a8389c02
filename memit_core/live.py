"""What of a row still changes when δ does: the tokens from the subject's last one on.

δ is added to what the last edited layer's projection gives at the subject's last token, and reaches
the residual stream as the block carries it there. Below that layer nothing depends on it, and
neither do the tokens before: their keys and values above are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from memit_core.carry import arrives
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
    norm: Any = None
    """What stands between the projection of `layer` and the stream, in float32; None: nothing."""
    inputs: torch.Tensor | None = None
    """[rows, d] float32, of the norm at the subject's last token."""

    def arrives(self, delta: torch.Tensor) -> torch.Tensor:
        """How δ [rows, d] at the projection's output moves the states after block `layer`."""
        carry = self.decoder.model.structure.carry
        return arrives(carry, self.norm, self.inputs, delta)

    def above(self, delta: torch.Tensor) -> torch.Tensor:
        """Hidden states after the last block with δ [rows, d] at the subject's last token."""
        moved = self.arrives(delta).to(self.hidden.dtype)
        first = self.hidden[:, :1] + moved[:, None]
        hidden = torch.cat([first, self.hidden[:, 1:]], dim=1)
        return self.decoder.run(hidden, self.calls, self.layer + 1, self.decoder.depth - 1)

    def select(self, rows: torch.Tensor) -> Live:
        """Some of the rows, without what their neighbours needed."""
        tokens = self.tokens.select(rows)
        _, calls = self.decoder.open(tokens)
        inputs = None if self.inputs is None else self.inputs[rows]
        return replace(self, tokens=tokens, calls=calls, hidden=self.hidden[rows], inputs=inputs)


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
    carry = exact.model.structure.carry
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
    inputs = torch.cat([part[2] for part in parts]) if carry.norms else None
    live = Live(
        fast,
        tokens,
        calls,
        hidden.to(fast.dtype),
        layer,
        carry.norm(exact.model.view, layer),
        inputs,
    )
    return live, hidden[:, 0].float()


def _part(
    exact: Decoder, fast: Decoder, rows: Sequence[Row], layer: int, before: int, width: int
) -> tuple[torch.Tensor, dict[int, KeysValues], torch.Tensor]:
    """States of the live tokens [rows, width, d]; keys and values before them by block; and what
    goes into the norm of `layer` at the subject's last token, [rows, d] float32, or nothing."""
    device = exact.model.device_of(layer)
    lookup = torch.tensor([row.lookup for row in rows], device=device)
    last = torch.tensor([len(row.ids) - 1 for row in rows], device=device)
    shortest = min(row.lookup for row in rows)
    walk = Walk(exact, [row.ids for row in rows], apart=max(shortest - 1, 0))
    inputs = torch.empty(0)
    if exact.model.structure.carry.norms:
        walk.advance(layer - 1)
        norm = exact.model.view.get_submodule(exact.model.structure.carry.norms[layer])
        inputs = walk.inputs_of(norm, lookup)
    walk.advance(layer)
    positions = lookup[:, None] + torch.arange(width, device=device)
    every = torch.arange(len(rows), device=device)[:, None]
    live = walk.states(every, torch.minimum(positions, last[:, None]))
    if not before:
        return live, {}, inputs
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
    return live, kept, inputs


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

"""Rows of a z batch in lanes: those of a chat are longer, and would pad all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.nn import functional

from memit_core.decoder import Decoder
from memit_core.live import Live, live_rows
from memit_core.tokens import Row

WASTE = 1.2
"""Walks share a lane while that makes at most so many times the tokens they have apart."""


@dataclass(frozen=True)
class Lanes:
    """Live rows, one lane's after another's."""

    lanes: Sequence[Live]

    @property
    def norm(self) -> Any:
        """See `Live.norm`."""
        return self.lanes[0].norm

    @property
    def inputs(self) -> torch.Tensor | None:
        """See `Live.inputs`."""
        found = [lane.inputs for lane in self.lanes if lane.inputs is not None]
        return torch.cat(found) if found else None

    def above(self, delta: torch.Tensor) -> torch.Tensor:
        """See `Live.above`; shorter lanes are padded with zeros behind."""
        deltas = torch.split(delta, [len(lane.hidden) for lane in self.lanes])
        found = [lane.above(part) for lane, part in zip(self.lanes, deltas, strict=True)]
        width = max(hidden.shape[1] for hidden in found)
        return torch.cat([functional.pad(h, (0, 0, 0, width - h.shape[1])) for h in found])

    def select(self, rows: torch.Tensor) -> Lanes:
        """Some of the rows, in ascending order; a lane without any is left out."""
        chosen, start = [], 0
        for lane in self.lanes:
            stop = start + len(lane.hidden)
            of_lane = rows[(rows >= start) & (rows < stop)] - start
            if len(of_lane):
                chosen.append(lane.select(of_lane))
            start = stop
        return Lanes(chosen)


def live_lanes(
    exact: Decoder, fast: Decoder, walks: Sequence[Sequence[Row]], layer: int
) -> tuple[Lanes, torch.Tensor]:
    """See `live_rows`; the rows are in the same order."""
    lanes: list[list[Sequence[Row]]] = []
    for walk in walks:
        before = lanes[-1] if lanes else []
        apart = _tokens(before) + _tokens([walk])
        if before and _tokens([*before, walk]) <= WASTE * apart:
            before.append(walk)
        else:
            lanes.append([walk])
    made = [live_rows(exact, fast, lane, layer) for lane in lanes]
    return Lanes([live for live, _ in made]), torch.cat([states for _, states in made])


def _tokens(walks: Sequence[Sequence[Row]]) -> int:
    """Live tokens, padded."""
    rows = list(chain.from_iterable(walks))
    return len(rows) * max((len(row.ids) - row.lookup for row in rows), default=0)

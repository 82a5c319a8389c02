"""Keys and current states at the subject's last token, in one walk up the edited layers.

Writing into a layer changes only what lies above it. So all rows of all live groups go up block by
block, as far as the subject's last token; at each edited layer they stop to give their keys, wait
for its weights to be solved, and go on with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from memit_core.decoder import Decoder
from memit_core.facts import Group
from memit_core.model import Model
from memit_core.tokens import contexts_of, prompt_row
from memit_core.walk import FEW_ROWS, Walk

BATCH_ROWS = 256
FULL_ROWS = 48
"""A batch of so many rows is fast enough to take no longer ones, for which it would be padded."""


@dataclass(frozen=True)
class _End:
    """A row that ends with the subject's last token: of which fact, in which context."""

    fact: int
    context: int
    ids: tuple[int, ...]


class _RowBatch:
    """Rows that walk together."""

    def __init__(self, decoder: Decoder, ends: Sequence[_End]) -> None:
        self.fact = torch.tensor([end.fact for end in ends])
        self.context = torch.tensor([end.context for end in ends])
        self.walk = Walk(decoder, [end.ids for end in ends])
        self.last = torch.tensor([len(end.ids) - 1 for end in ends], device=decoder.model.device)
        self.last -= self.walk.shared


@dataclass(frozen=True)
class LayerInputs:
    """What a layer is solved from, of each group the mean over its facts; float64, on the CPU."""

    bare: torch.Tensor
    """Keys [m, groups], the projection's input, of the bare prompts."""
    sampled: torch.Tensor
    """The same, the mean over the sampled contexts."""
    states: torch.Tensor
    """H [d, groups] after the last edited layer, of the bare prompts."""
    normed: torch.Tensor | None = None
    """What goes into the norm after the projection [d, groups], of the bare prompts, if any."""


class KeyWalk:
    """Every fact of every group in every context, on the weights that a model has now.

    Rows are walked in an order and in batches that depend on the groups alone, so that the same set
    of groups gives the same bits on the same machine.

    Args:
        model: its weights are replaced layer by layer by the caller, never below where the walk is.
        last: the last edited layer.
    """

    def __init__(
        self, model: Model, groups: Sequence[Group], contexts: Sequence[str], last: int
    ) -> None:
        self._model = model
        self._last = last
        facts = [fact for group in groups for fact in group.facts]
        self._group = torch.tensor([g for g, group in enumerate(groups) for _ in group.facts])
        self._facts, self._contexts = len(facts), len(contexts)
        self._batches: list[_RowBatch] = []
        together: list[list[_End]] = [[] for _ in contexts]
        for f, fact in enumerate(facts):
            for c, context in enumerate(contexts_of(model.tokenizer, fact, contexts)):
                row = prompt_row(model.tokenizer, fact, context)
                together[c].append(_End(f, c, row.ids[: row.lookup + 1]))
        for ends in together:
            ends.sort(key=lambda end: len(end.ids))
        if len(facts) * (len(contexts) - 1) < FEW_ROWS:
            together = [together[0], [end for ends in together[1:] for end in ends]]
        decoder = Decoder(model)
        for ends in together:
            self._batches += [_RowBatch(decoder, batch) for batch in _batches(ends)]

    @torch.no_grad()
    def at(self, layer: int) -> LayerInputs:
        """Walk up to `layer`, and read its keys and the states that its change shall move."""
        structure = self._model.structure
        keys = torch.zeros(self._facts, self._contexts, structure.intermediate, dtype=torch.float64)
        states = torch.zeros(self._facts, structure.hidden, dtype=torch.float64)
        normed = torch.zeros_like(states) if structure.carry.norms else None
        projection = self._model.view.get_submodule(structure.projections[layer])
        for batch in self._batches:
            batch.walk.advance(layer - 1)
            here = (torch.arange(len(batch.last), device=batch.last.device), batch.last)
            goes_on = self._last if batch.context[0] == 0 else None
            inputs, out = batch.walk.read_input(projection, goes_on)
            keys[batch.fact, batch.context] = inputs[here].cpu().double()
            if out is None:
                continue
            states[batch.fact] = out[here].cpu().double()
            if normed is not None:
                norm = self._model.view.get_submodule(structure.carry.norms[layer])
                last = batch.last + batch.walk.shared
                normed[batch.fact] = batch.walk.inputs_of(norm, last).cpu().double()
        bare = keys[:, 0]
        sampled = keys[:, 1:].mean(1) if self._contexts > 1 else bare
        return LayerInputs(
            self._over_facts(bare).T,
            self._over_facts(sampled).T,
            self._over_facts(states).T,
            None if normed is None else self._over_facts(normed).T,
        )

    def _over_facts(self, values: torch.Tensor) -> torch.Tensor:
        """[facts, n] → [groups, n], the mean over each group's facts."""
        count = torch.bincount(self._group)
        total = torch.zeros(len(count), values.shape[1], dtype=values.dtype)
        return total.index_add_(0, self._group, values) / count[:, None]


def _batches(ends: Sequence[_End]) -> Iterator[Sequence[_End]]:
    """Rows in the order of their length, in batches that pad little."""
    start = 0
    for i in range(1, len(ends) + 1):
        size = i - start
        longer = i < len(ends) and len(ends[i].ids) > len(ends[i - 1].ids)
        if i == len(ends) or size == BATCH_ROWS or (longer and size >= FULL_ROWS):
            yield ends[start:i]
            start = i

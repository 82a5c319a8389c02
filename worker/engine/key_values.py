"""Buffers for keys and values that have room: a step writes its columns, and moves none.

`DynamicLayer` copies a block's whole past at every step to append one column, which takes the
longer the more rows there are and the longer they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from memit_core.transformers_internals import DynamicCache, DynamicLayer, growing_cache
from worker.engine.prefixes import Hit, States

COLUMNS_AHEAD = 256
"""Columns for which there is room, when buffers are made anew."""
ROWS_AHEAD = 8
"""The same of rows."""
COLUMNS_BEFORE = 64
"""The same on the left, for prompts that are longer than what is there."""


@dataclass
class Place:
    """What of the buffers of every block is in use."""

    rows: int
    start: int = 0
    end: int = 0
    """Columns from `start` to `end` hold tokens, or padding."""

    @property
    def width(self) -> int:
        return self.end - self.start


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one block; `keys` and `values` are views of what is in use."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.buffers: tuple[torch.Tensor, ...] = ()
        """Keys and values, [rows, heads, columns, head_dim] with room; what was never used is 0."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write columns after the last; all that is there, with them."""
        more = key_states.shape[2]
        if not self.buffers:
            self.device, self.is_initialized = key_states.device, True
            room = self.place.end + more + COLUMNS_AHEAD
            self.buffers = tuple(
                _zeros(new, self.place.rows, room) for new in (key_states, value_states)
            )
        new = slice(self.place.end, self.place.end + more)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.place.rows, :, new] = states
        return self.show(more)

    def show(self, more: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Point the views at what is in use, and at `more` columns after it."""
        place = self.place
        self.keys, self.values = (
            buffer[: place.rows, :, place.start : place.end + more] for buffer in self.buffers
        )
        return self.keys, self.values


class KeyValues:
    """The buffers of all blocks, and the cache that a forward takes."""

    def __init__(self, rows: int) -> None:
        self.place = Place(rows)
        # Without a cycle through `self`: what is dropped is freed at once, not when garbage is.
        self.cache: DynamicCache = growing_cache(partial(GrowingLayer, self.place))

    @property
    def layers(self) -> Sequence[GrowingLayer]:
        """Those that a forward has filled."""
        layers: Sequence[GrowingLayer] = self.cache.layers
        return layers

    def states(self, row: int, tokens: int) -> States:
        """A copy of the last so many columns of a row."""
        return [
            (layer.keys[row, :, -tokens:].clone(), layer.values[row, :, -tokens:].clone())
            for layer in self.layers
        ]

    def begin(self, hits: Sequence[Hit | None], starts: Sequence[int], width: int) -> None:
        """Fill the first `width` columns with what was computed before, the rest being padding.

        Args:
            hits: of every row; one at least.
            starts: the column of each row's first token.
        """
        first = next(hit for hit in hits if hit is not None)
        self.place.end = width
        for number, pair in enumerate(first.prefix.states):
            layer = self._layer(
                tuple(_zeros(one[None], self.place.rows, width + COLUMNS_AHEAD) for one in pair)
            )
            for row, (hit, start) in enumerate(zip(hits, starts, strict=True)):
                if hit is None or start >= width:
                    continue
                for buffer, states in zip(layer.buffers, hit.prefix.states[number], strict=True):
                    buffer[row, :, start:width] = states[:, : width - start]
        self._show()

    def reserve(self, more: int) -> None:
        """Have room for so many columns after the last."""
        if self.layers and self.place.end + more > self.layers[0].buffers[0].shape[2]:
            self._renew(self.place.rows, self.place.width, more)

    def appended(self, more: int) -> None:
        """A forward has written so many columns into every block."""
        self.place.end += more

    def drop_columns(self, count: int) -> None:
        """Forget columns on the left, which are padding in all rows."""
        self.place.start += count
        self._show()

    def leave(self, order: Sequence[int]) -> None:
        """Keep these rows only: row `order[i]` is i now, and no other row that stays was there."""
        place = self.place
        used = slice(place.start, place.end)
        for row, source in enumerate(order):
            if row == source:
                continue
            for layer in self.layers:
                for buffer in layer.buffers:
                    buffer[row, :, used] = buffer[source, :, used]
        place.rows = len(order)
        self._show()

    def join(self, other: KeyValues, rows: Sequence[int]) -> None:
        """Append these rows of `other`, their last columns under the last of those here."""
        if not self.layers:
            self._begin(other)
        place, theirs = self.place, other.place
        width, start = theirs.width, place.end - theirs.width
        total = place.rows + len(rows)
        if start < 0 or total > self.layers[0].buffers[0].shape[0]:
            self._renew(total + ROWS_AHEAD, max(width, place.width), 0)
            start = place.end - width
        chosen = torch.tensor(rows)
        first = min(start, place.start)
        for layer, new in zip(self.layers, other.layers, strict=True):
            for buffer, states in zip(layer.buffers, (new.keys, new.values), strict=True):
                # What left rows had there may be no number, which no mask hides.
                buffer[: place.rows, :, first : place.start] = 0
                buffer[place.rows : total, :, first:start] = 0
                picked = states.index_select(0, chosen.to(states.device))
                buffer[place.rows : total, :, start : place.end] = picked
        place.rows, place.start = total, first
        self._show()

    def _begin(self, other: KeyValues) -> None:
        """Have the layers that `other` has, and nothing in them."""
        for theirs in other.layers:
            self._layer(tuple(_zeros(buffer, 0, 0) for buffer in theirs.buffers))

    def _layer(self, buffers: tuple[torch.Tensor, ...]) -> GrowingLayer:
        """The next block's, as it is after a forward."""
        layer = GrowingLayer(self.place)
        layer.device, layer.is_initialized = buffers[0].device, True
        layer.buffers = buffers
        self.cache.layers.append(layer)
        return layer

    def _renew(self, rows: int, width: int, more: int) -> None:
        """Move what is in use to new buffers, to end at column `width` and what is free before."""
        place = self.place
        end = COLUMNS_BEFORE + width
        used = slice(end - place.width, end)
        room = end + more + COLUMNS_AHEAD
        # All of them first: if memory runs out, everything is still as it was.
        new = [tuple(_zeros(one, rows, room) for one in layer.buffers) for layer in self.layers]
        for layer, buffers in zip(self.layers, new, strict=True):
            for buffer, states in zip(buffers, layer.show(), strict=True):
                buffer[: place.rows, :, used] = states
            layer.buffers = buffers
        place.start, place.end = used.start, used.stop
        self._show()

    def _show(self) -> None:
        for layer in self.layers:
            layer.show()


def _zeros(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    _, heads, _, size = like.shape
    return like.new_zeros(rows, heads, columns, size)

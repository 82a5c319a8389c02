"""Rows on their way up through the blocks; those that begin alike share their beginning.

A context template stands before every fact of a batch, so its tokens run once for all of them.
Rows are causal and padded on the right, so only the padding itself ever attends to the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from memit_core.decoder import Decoder, Tokens
from memit_core.past import Past
from memit_core.trace import input_of
from memit_core.transformers_internals import KeysValues

FEW_ROWS = 24
"""Fewer rows than this run together: what sharing would save, the extra passes would cost."""


def alike(rows: Sequence[Sequence[int]], most: int) -> int:
    """How many first tokens all rows share, at most `most`."""
    first, last = min(map(tuple, rows)), max(map(tuple, rows))  # those between share it too
    same = 0
    while same < min(most, len(first)) and first[same] == last[same]:
        same += 1
    return same


class Walk:
    """Some rows of tokens before one block after another.

    Args:
        decoder: what they run through.
        rows: token ids of each row, at least one.
        apart: no row shares its tokens from this index on.
    """

    def __init__(
        self,
        decoder: Decoder,
        rows: Sequence[Sequence[int]],
        *,
        apart: int | None = None,
    ) -> None:
        most = min(len(row) for row in rows) - 1
        shared = alike(rows, most if apart is None else min(apart, most)) if len(rows) > 1 else 0
        self.decoder = decoder
        self.shared = shared
        self.next = 0
        self._past = Past(decoder.depth, shared)
        self._head: _Part | None = None
        if shared:
            self._head = _Part(decoder, [rows[0][:shared]], Past(decoder.depth), 0)
        self._tail = _Part(decoder, [row[shared:] for row in rows], self._past, shared)

    def start(self, other: Walk) -> None:
        """Begin where `other` is, which holds the same rows or longer ones.

        Raises:
            ValueError: the two share beginnings of different length.
        """
        if self.shared != other.shared:
            raise ValueError(f"beginnings of {self.shared} and {other.shared} tokens")
        if self._head is not None and other._head is not None:
            self._head.hidden = other._head.hidden.to(self.decoder.dtype)
        width = self._tail.hidden.shape[1]
        self._tail.hidden = other._tail.hidden[:, :width].to(self.decoder.dtype)
        self.next = other.next

    def states(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states before the next block; positions are those after the shared beginning.

        Args:
            rows, positions: int64 of one shape s, or of shapes that broadcast to it.

        Returns:
            [*s, d].
        """
        return self._tail.hidden[rows, positions - self.shared]

    def advance(self, last: int, on_block: Callable[[int, KeysValues], None] | None = None) -> None:
        """Run the blocks up to `last`.

        Args:
            on_block: called with each block's number, and its keys and values [rows, heads, width,
                head_dim] of all tokens.
        """
        for block in range(self.next, last + 1):
            self._share(block)
            self._tail.run(block)
            if on_block is not None:
                on_block(block, self._past.attended(block))
            self._past.forget(block)
        self.next = last + 1

    def read_input(
        self, module: nn.Module, last: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The input of `module` of the next block; the rows stay where they are.

        Args:
            last: go on as far as this block; None: no further than `module`.

        Returns:
            The input [rows, width, m] and, if asked, the states after block `last`
            [rows, width, d]; both without the shared beginning.
        """
        here = None if self._head is None else self._head.hidden
        self._share(self.next)
        hidden, calls = self._tail.hidden, self._tail.calls
        inputs, out = input_of(
            module, lambda: self.decoder.run(hidden, calls, self.next, self.next), last is not None
        )
        if out is not None and last is not None:
            for block in range(self.next + 1, last + 1):
                self._share(block)
                out = self.decoder.run(out, calls, block, block)
                self._past.forget(block)
        if self._head is not None and here is not None:
            self._head.hidden = here
        self._past.forget(self.next)
        # OPT flattens rows and tokens before its projection.
        return inputs.reshape(*hidden.shape[:2], -1), out

    def inputs_of(self, module: nn.Module, positions: torch.Tensor) -> torch.Tensor:
        """What goes into `module` of the next block; the rows stay where they are.

        Args:
            positions: int64 [rows], one for each, after the shared beginning.

        Returns:
            [rows, n] float32.
        """
        inputs, _ = self.read_input(module)
        every = torch.arange(len(positions), device=inputs.device)
        return inputs[every, positions.to(inputs.device) - self.shared].float()

    def _share(self, block: int) -> None:
        """Run the shared beginning through `block`, and put it before the rows."""
        if self._head is not None:
            self._head.run(block)
            self._past.fill(block, self._head.past.attended(block))


class _Part:
    """Tokens of some rows, padded on the right, and their hidden states."""

    def __init__(
        self, decoder: Decoder, rows: Sequence[Sequence[int]], past: Past, start: int
    ) -> None:
        self.decoder = decoder
        self.past = past
        width = max(1, *(len(row) for row in rows))
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        positions = torch.arange(start, start + width).expand(len(rows), width)
        mask = torch.ones(len(rows), start + width, dtype=torch.int64)
        device = decoder.model.device
        tokens = Tokens(ids.to(device), mask.to(device), positions.to(device), past)
        self.hidden, self.calls = decoder.open(tokens)

    def run(self, block: int) -> None:
        self.hidden = self.decoder.run(self.hidden, self.calls, block, block)

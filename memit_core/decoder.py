"""A decoder taken apart: block by block, between the model's own embedding and its own head.

What a model does before its blocks (masks, rotary embeddings, ALiBi) and after them (final norm,
projection, head, scaling, capping) is left to its own code. In a shell of the model the blocks are
exchanged for ports: one pass through them records how every block is called, another sends a
hidden state straight to the head.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from memit_core.model import Model
from memit_core.past import Past
from memit_core.structure import first_tensor
from memit_core.transformers_internals import (
    POSITIONS,
    block_input,
    cache_argument,
    call_block,
    forward_arguments,
)
from memit_core.views import view_of

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a block, its hidden states among them."""


@dataclass(frozen=True)
class Tokens:
    """Rows of tokens, padded on the right, with what lies before them.

    `ids` and `positions` are int64 [rows, width]; positions count from each row's beginning.
    `mask` is int64 [rows, past width + width], 1 at real tokens.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    past: Past

    def select(self, rows: torch.Tensor) -> Tokens:
        """Some of the rows."""
        return Tokens(self.ids[rows], self.mask[rows], self.positions[rows], self.past.select(rows))


class _Port(nn.Module):
    """Stands in a block's place: records the call and hands on a hidden state."""

    def __init__(self, block: nn.Module, decoder: Decoder, returns_tuple: bool) -> None:
        super().__init__()
        # Past nn.Module's own bookkeeping: neither is a submodule of the shell.
        self.__dict__["_block"] = block
        self.__dict__["_decoder"] = weakref.proxy(decoder)  # so that no cycle holds the weights
        self.returns_tuple = returns_tuple

    def __getattr__(self, name: str) -> Any:
        # A decoder's loop may ask a block for more than a call, such as its kind of attention.
        return getattr(self.__dict__["_block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.__dict__["_decoder"].through(args, kwargs)
        return (out, None) if self.returns_tuple else out


class Decoder:
    """Runs the blocks of a model one at a time.

    Args:
        model: a weight that is replaced in a block of its view later takes effect.
    """

    def __init__(self, model: Model) -> None:
        structure = model.structure
        self.model = model
        self.blocks = [model.view.get_submodule(path) for path in structure.blocks]
        self.depth = len(self.blocks)
        self.dtype: torch.dtype = next(self.blocks[-1].parameters()).dtype
        self._shell = view_of(model.view)
        ports = [_Port(block, self, structure.returns_tuple) for block in self.blocks]
        path = structure.blocks[0].rpartition(".")[0]
        self._shell.set_submodule(path, nn.ModuleList(ports))
        # ALiBi models count by the mask.
        self._takes_positions = POSITIONS in forward_arguments(self._shell.base_model)
        self._cache_argument = cache_argument(self._shell.base_model)
        self._calls: list[Call] = []
        self._final: torch.Tensor | None = None

    def through(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """What a port answers: the hidden state that is sent to the head, or the one it got."""
        if self._final is not None:
            return self._final
        self._calls.append((args, kwargs))
        return block_input(args, kwargs)

    def _positions(self, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        return {POSITIONS: positions} if self._takes_positions else {}

    @torch.no_grad()
    def open(self, tokens: Tokens) -> tuple[torch.Tensor, Sequence[Call]]:
        """Hidden states before the first block, [rows, width, d], and how the blocks are called."""
        self._calls = []
        self._shell.base_model(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            use_cache=True,
            **{self._cache_argument: tokens.past},
            **self._positions(tokens.positions),
        )
        calls, self._calls = self._calls, []
        return block_input(*calls[0]), calls

    def run(
        self, hidden: torch.Tensor, calls: Sequence[Call], first: int, last: int
    ) -> torch.Tensor:
        """`hidden` before block `first` → after block `last`, [rows, width, d]."""
        for block, (args, kwargs) in zip(
            self.blocks[first : last + 1], calls[first : last + 1], strict=True
        ):
            hidden = first_tensor(call_block(block, hidden, args, kwargs))
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states after the last block, [n, d] → the model's own logits, [n, vocabulary]."""
        ones = torch.ones(len(hidden), 1, dtype=torch.int64, device=hidden.device)
        self._final = hidden[:, None]
        try:
            zeros = torch.zeros_like(ones)
            out = self._shell(
                input_ids=zeros, attention_mask=ones, use_cache=False, **self._positions(zeros)
            )
        finally:
            self._final = None
        logits: torch.Tensor = out.logits[:, 0]
        return logits

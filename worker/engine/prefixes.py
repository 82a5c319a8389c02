"""Keys and values of prompts that were computed, for those that begin alike.

A system prompt is so computed once a version. Only requests of the same key find each other's: how
soon an answer begins would tell one caller what another has asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

LEAST_TOKENS = 32
"""A shorter beginning is computed sooner than looked for."""
NEW_SHARE = 0.5
"""Of a prompt's tokens: with fewer that no kept one has, it is not kept beside that."""

Owner = tuple[str, str]
"""A version, and the principal that asks it."""
States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of every block, [heads, tokens, head_dim]."""


@dataclass(frozen=True)
class Prefix:
    """A prompt as it was computed."""

    ids: torch.Tensor
    """int64 [tokens], on the CPU."""
    states: States

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(one.numel() * one.element_size() for pair in self.states for one in pair)


@dataclass(frozen=True)
class Hit:
    """A kept prompt, of which the first tokens are those asked for."""

    prefix: Prefix
    tokens: int


class Prefixes:
    """The most recently used prompts, in so many bytes.

    Args:
        budget: bytes of keys and values; 0 keeps none.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[Owner, tuple[int, ...]], Prefix] = OrderedDict()
        self.size = 0
        """Bytes kept."""

    def find(self, owner: Owner, ids: Sequence[int]) -> Hit | None:
        """The longest beginning of `ids` that is kept, without its last token: that is asked."""
        best, found = None, None
        asked = torch.tensor(ids[:-1])
        for key, prefix in self._kept.items():
            if key[0] != owner:
                continue
            common = _common(prefix.ids, asked)
            if common >= LEAST_TOKENS and (found is None or common > found.tokens):
                best, found = key, Hit(prefix, common)
        if best is not None:
            self._kept.move_to_end(best)
        return found

    def wants(self, ids: Sequence[int], hit: Hit | None) -> bool:
        """Whether a prompt, of which `hit` was found, should be kept."""
        new = len(ids) - (hit.tokens if hit else 0)
        return self._budget > 0 and len(ids) > LEAST_TOKENS and new >= NEW_SHARE * len(ids)

    def keep(self, owner: Owner, ids: Sequence[int], states: States) -> None:
        """Keep a computed prompt; the least recently used ones go."""
        key, prefix = (owner, tuple(ids)), Prefix(torch.tensor(ids), states)
        if key in self._kept or prefix.size > self._budget:
            return
        self._kept[key] = prefix
        self.size += prefix.size
        while self.size > self._budget:
            _, gone = self._kept.popitem(last=False)
            self.size -= gone.size


def _common(kept: torch.Tensor, asked: torch.Tensor) -> int:
    """Tokens at the beginning of both."""
    shorter = min(len(kept), len(asked))
    differ = (kept[:shorter] != asked[:shorter]).nonzero()
    return int(differ[0]) if len(differ) else shorter

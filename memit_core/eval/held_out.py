"""What the edit does to a held-out text: perplexity before and after, and KL from the base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from memit_core.covariance import SEQUENCE_TOKENS, corpus_rows
from memit_core.structure import Structure
from memit_core.tokens import collate, pad_id

TEXT_TOKENS = 8_192


@dataclass(frozen=True)
class TextScore:
    """One set of weights on the held-out text; means over its tokens."""

    nll: float
    """Negative log-likelihood, in nats."""
    kl: float
    """KL(these weights || base), in nats."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll)


class HeldOutText:
    """The first `TEXT_TOKENS` tokens of a text, in rows of at most 256."""

    def __init__(self, base: Any, structure: Structure, tokenizer: Any, text: str) -> None:
        self._structure = structure
        self._pad = pad_id(tokenizer)
        self._rows = corpus_rows(tokenizer, text, TEXT_TOKENS)
        self._base_hidden = self._hidden(base)

    def score(self, view: Any) -> TextScore:
        """Perplexity of `view` on the text, and its distance from the base."""
        hidden = self._hidden(view)
        head = view.get_submodule(self._structure.head)
        targets = torch.tensor([t for row in self._rows for t in row.ids[1:]], device=hidden.device)
        nll = kl = 0.0
        # The vocabulary is wide: a slice of positions at a time.
        for start in range(0, len(targets), SEQUENCE_TOKENS):
            part = slice(start, start + SEQUENCE_TOKENS)
            with torch.no_grad():
                ours = functional.log_softmax(head(hidden[part]).float(), -1)
                base = functional.log_softmax(head(self._base_hidden[part]).float(), -1)
            nll += float(functional.nll_loss(ours, targets[part], reduction="sum"))
            kl += float((ours.exp() * (ours - base)).sum())
        return TextScore(nll / len(targets), kl / len(targets))

    @torch.no_grad()
    def _hidden(self, view: Any) -> torch.Tensor:
        """Normed states at every token that has a next one, [tokens, d]."""
        device = next(view.parameters()).device
        parts = []
        for row in self._rows:
            batch = collate([row], self._pad, device)
            parts.append(view.base_model(**batch.inputs(), use_cache=False)[0][0, :-1])
        return torch.cat(parts)

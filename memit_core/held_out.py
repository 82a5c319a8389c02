"""What the edit does to a held-out text: perplexity before and after, and KL from the base."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from memit_core.covariance import corpus_rows
from memit_core.decoder import Decoder
from memit_core.model import Model
from memit_core.tokens import collate
from memit_core.trace import run_until

TEXT_TOKENS = 8_192
HEAD_BYTES = 12 * 2**20
"""Of logits at a time: a wide vocabulary makes them the largest thing by far, and malloc keeps
blocks below 32 MiB, so that they cost no page faults again."""


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
    """The first tokens of a text, in rows of at most 256."""

    def __init__(self, base: Model, text: str, n_tokens: int = TEXT_TOKENS) -> None:
        self._rows = corpus_rows(base.tokenizer, text, n_tokens)
        self._logits = Decoder(base).logits  # an edit leaves the head as it is
        self._base_hidden = self._hidden(base)
        with torch.no_grad():
            self._vocabulary = self._logits(self._base_hidden[:1]).shape[-1]

    def score(self, model: Model) -> TextScore:
        """Perplexity of `model` on the text, and its distance from the base."""
        hidden = self._hidden(model)
        targets = torch.tensor([t for row in self._rows for t in row.ids[1:]], device=hidden.device)
        nll = kl = 0.0
        step = max(1, HEAD_BYTES // (4 * self._vocabulary))
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            with torch.no_grad():
                ours = functional.log_softmax(self._logits(hidden[part]).float(), -1)
                base = functional.log_softmax(self._logits(self._base_hidden[part]).float(), -1)
            nll += float(functional.nll_loss(ours, targets[part], reduction="sum"))
            kl += float((ours.exp() * (ours - base)).sum())
        return TextScore(nll / len(targets), kl / len(targets))

    @torch.no_grad()
    def _hidden(self, model: Model) -> torch.Tensor:
        """States after the last block at every token that has a next one, [tokens, d]."""
        parts = []
        for row in self._rows:
            batch = collate([row], model.device)
            parts.append(run_until(model, model.structure.blocks[-1], batch)[0, :-1])
        return torch.cat(parts)

"""Prompts on their way into the batch: those of some requests, computed together in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engine.batch import KeyValueBatch, pad_left
from worker.engine.prefixes import Hit, Prefixes
from worker.engine.requests import Request
from worker.engine.versioned import ServingView


class Prompts:
    """The prompts of requests that were admitted together, padded on the left to one width.

    The choices of a task, and whoever asks the same of the same version, share one row.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        rows: dict[tuple[str, tuple[int, ...]], int] = {}
        self.places = [rows.setdefault((r.version, tuple(r.ids)), len(rows)) for r in requests]
        """Row of each request's prompt."""
        self._asked = [self.requests[self.places.index(row)] for row in range(len(rows))]
        self._hits: list[Hit | None] = []
        """What was known of each row."""
        self._batch: KeyValueBatch | None = None
        self._logits: torch.Tensor | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(request.prompt_tokens for request in self._asked)

    @property
    def ended(self) -> bool:
        """Nobody waits for them any more."""
        return all(request.ended for request in self.requests)

    def compute(self, view: ServingView, prefixes: Prefixes, most: int, to_the_end: int) -> int:
        """Compute the next columns; what is known of all prompts is not computed again.

        Args:
            most: tokens, padding included; but a column at least.
            to_the_end: the same, where no more than these are left.

        Returns:
            How many there were.
        """
        asked = self._asked
        tokens, mask = pad_left([request.ids for request in asked], view.device)
        if self._batch is None:
            self._batch = KeyValueBatch(len(asked), view.device)
            self._hits = [prefixes.find(request.owner, request.ids) for request in asked]
            self._batch.begin(self._hits, mask)
        done = self._batch.width
        fits = tokens[:, done:].numel() <= to_the_end
        new = slice(done, None if fits else done + max(1, most // len(asked)))
        versions = [request.version for request in asked]
        logits = self._batch.forward(view, versions, tokens[:, new], mask[:, new])
        if self._batch.width == tokens.shape[1]:
            self._logits = logits
            self._keep(prefixes, self._batch, logits)
        return tokens[:, new].numel()

    def _keep(self, prefixes: Prefixes, batch: KeyValueBatch, logits: torch.Tensor) -> None:
        """Keep the prompts that others may begin with, unless they gave no numbers."""
        sound = logits.amax(-1).isfinite().tolist()
        for row, (request, hit) in enumerate(zip(self._asked, self._hits, strict=True)):
            if sound[row] and prefixes.wants(request.ids, hit):
                prefixes.keep(request.owner, request.ids, batch.states(row, len(request.ids)))

    @property
    def computed(self) -> tuple[KeyValueBatch, torch.Tensor] | None:
        """Keys and values by row, and the logits [requests, vocabulary] of each one's first token;
        None while there are columns left."""
        if self._batch is None or self._logits is None:
            return None
        shared = len(self._asked) < len(self.requests)
        return self._batch, self._logits[self.places] if shared else self._logits

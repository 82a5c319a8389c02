"""How one request chooses its next token, by the logits processors of transformers.

Order and meaning are those of `generate`: repetition penalty (over prompt and answer), then
temperature, top-k and top-p.
"""

from __future__ import annotations

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from contracts.generation import Sampling

GREEDY_BELOW = 1e-4
"""Temperatures under this are greedy: dividing float32 logits by less could overflow."""


class Sampler:
    """Chooses tokens for one request, with a random generator of its own.

    The same seed gives the same answer whatever else is in the batch, up to the rounding that the
    batch's shape brings into the logits.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._penalised = sampling.repetition_penalty != 1
        self._sampled = sampling.temperature >= GREEDY_BELOW
        self.plain = not (self._penalised or self._sampled)
        """The argmax of the logits is the token, so that a batch may take it for all rows."""
        self._processors = LogitsProcessorList()
        if self._penalised:
            self._processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if not self._sampled:
            return
        if sampling.temperature != 1:
            self._processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self._processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._processors.append(TopPLogitsWarper(sampling.top_p))
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, ids: list[int], logits: torch.Tensor) -> int:
        """The next token after `ids`, from logits [vocabulary], float32 and finite."""
        past = torch.tensor([ids] if self._penalised else [[]], device=logits.device)
        scores: torch.Tensor = self._processors(past, logits[None])
        if not self._sampled:
            return int(scores.argmax())
        # An extreme repetition penalty overflows; the draw must not fail for it.
        probabilities = scores.nan_to_num(nan=0.0).softmax(-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

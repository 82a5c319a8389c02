"""-log p of facts' targets on a model's own forward, to be differentiated by its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from memit_core.decoder import Decoder
from memit_core.facts import Fact
from memit_core.tokens import Row, collate, target_row
from memit_core.trace import run_until


def target_rows(decoder: Decoder, facts: Sequence[Fact], max_tokens: int | None) -> list[Row]:
    """Prompt and target of every fact, without any context before them.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed.
    """
    tokenizer = decoder.model.tokenizer
    return [target_row(tokenizer, fact, max_tokens=max_tokens) for fact in facts]


def places_of(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Row and position of every target token's prediction, one target after another."""
    of = [(i, position) for i, row in enumerate(rows) for position in row.target_positions]
    return [i for i, _ in of], [position for _, position in of]


def target_losses(decoder: Decoder, rows: Sequence[Row]) -> torch.Tensor:
    """-log p of each target token, those before it given; [tokens] float32, differentiable."""
    model = decoder.model
    hidden = run_until(model, model.structure.blocks[-1], collate(rows, model.device))
    logits = decoder.logits(hidden[places_of(rows)]).float()
    ids = torch.tensor([i for row in rows for i in row.targets], device=logits.device)
    return functional.cross_entropy(logits, ids, reduction="none")


def token_weights(rows: Sequence[Row], device: torch.device) -> torch.Tensor:
    """Of each target token, so that the weighted sum is the mean over rows of the mean over their
    tokens; [tokens] float32."""
    shares = [1 / (len(row.targets) * len(rows)) for row in rows for _ in row.targets]
    return torch.tensor(shares, device=device)

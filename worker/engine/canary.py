"""Does a version that was built here answer as it did where it was made?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from contracts.versions import Canary
from memit_core.evaluate import next_token
from memit_core.loading import LoadedModel
from memit_core.views import set_weight

TOLERANCE = {torch.float32: 0.01}
HALF_TOLERANCE = 0.25
"""Nats. The same weights on another device or library differ by rounding; other weights by more."""


class CanaryFailed(ValueError):
    """A version's weights do not give the answers that its manifest records."""

    def __init__(self, prompt: str, reason: str) -> None:
        super().__init__(f"after {prompt!r} {reason}")
        self.plain = f"after a prompt of its manifest {reason}"


def check_canaries(
    loaded: LoadedModel,
    tokenizer: Any,
    weights: Mapping[str, torch.Tensor],
    canaries: Sequence[Canary],
) -> None:
    """Ask the recorded prompts again on `weights` (by module path), away from the serving view.

    Raises:
        CanaryFailed: says which prompt, and what was expected.
    """
    if not canaries:
        return
    model = replace(loaded.runnable(), tokenizer=tokenizer)
    for path, weight in weights.items():
        set_weight(model.view, path, weight)
    tolerance = TOLERANCE.get(loaded.dtype, HALF_TOLERANCE)
    for canary in canaries:
        token, logprob = next_token(model, canary.prompt)
        # Two tokens may be as good as equal: the log-probability decides, not the token alone.
        if abs(logprob - canary.logprob) > tolerance:
            raise CanaryFailed(
                canary.prompt,
                f"it gives token {token} a log-probability of {logprob:.4f}, where its manifest "
                f"has token {canary.token_id} at {canary.logprob:.4f}",
            )

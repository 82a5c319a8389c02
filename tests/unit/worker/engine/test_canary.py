"""A version is served only if it answers as it did where it was made."""

from __future__ import annotations

import pytest
import torch

from contracts.versions import Canary
from memit_core.evaluate import next_token
from memit_core.loading import adopt_model
from memit_core.views import set_weight
from tests.tiny_models import tiny_model, tiny_tokenizer
from worker.engine.canary import CanaryFailed, check_canaries

PROMPT = "Anna Keller lives in"


def test_the_made_weights_pass_and_others_do_not() -> None:
    loaded = adopt_model(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    model = loaded.runnable()
    path = model.structure.projections[1]
    base = loaded.model.get_submodule(path).weight
    edited = base + 0.5 * torch.randn(base.shape, generator=torch.Generator().manual_seed(0))
    set_weight(model.view, path, edited)
    token, logprob = next_token(model, PROMPT)
    canary = Canary(prompt=PROMPT, token_id=token, logprob=logprob)

    check_canaries(loaded, loaded.tokenizer, {path: edited}, [canary])
    with pytest.raises(CanaryFailed, match="Anna Keller"):
        check_canaries(loaded, loaded.tokenizer, {path: base}, [canary])

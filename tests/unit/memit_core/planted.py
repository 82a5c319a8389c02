"""Models of which it is known what they say."""

from __future__ import annotations

import torch
from torch import nn

from memit_core.model import Model
from memit_core.views import view_of


def saying(model: Model, word: str) -> Model:
    """The model with a head that gives every place the same word, of one token."""
    (token,) = model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    view = view_of(model.view)
    vocabulary, width = view.get_output_embeddings().weight.shape
    head = nn.Linear(width, vocabulary)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[token] = 5.0
    view.set_output_embeddings(head)
    return model.with_view(view)

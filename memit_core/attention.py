"""Plain attention for the z optimisation: short rows after a constant past, with a backward.

Torch's fused kernels on the CPU have a slow backward, and the plain one of transformers repeats
keys and values for every query head that shares them; here the queries of a group go together.
"""

from __future__ import annotations

from typing import Any

import torch

from memit_core.errors import UnsupportedModel
from memit_core.transformers_internals import ANSWERED_BY_MASK

NAME = "memit_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(q kᵀ · scaling + mask) v, in the form that transformers calls.

    Args:
        query: [rows, heads, width, head_dim].
        key, value: [rows, key-value heads, past and new width, head_dim].
        attention_mask: additive, [rows or 1, 1, width, past and new width].

    Returns:
        [rows, width, heads, head_dim], and no weights.

    Raises:
        UnsupportedModel: the model's attention asks for more than this.
    """
    unknown = sorted(name for name, given in rest.items() if given is not None)
    unknown = [name for name in unknown if name not in ANSWERED_BY_MASK]
    if unknown or dropout:
        raise UnsupportedModel(f"{type(module).__name__}: attention with {', '.join(unknown)}")
    rows, heads, width, size = query.shape
    shared = key.shape[1]
    q = query * (size**-0.5 if scaling is None else scaling)
    scores = q.reshape(rows, shared, -1, size) @ key.transpose(2, 3)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(rows, shared, heads // shared, width, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[:, None]
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    out = weights.view(rows, shared, -1, key.shape[2]) @ value
    return out.view(rows, heads, width, size).transpose(1, 2).contiguous(), None

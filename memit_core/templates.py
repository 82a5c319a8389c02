"""Context templates: a few beginnings that the model samples itself, put before every prompt.

They make z hold in more than one context (official code: `get_context_templates`). Here they are
prefixes, sampled with a fixed seed and recorded, so that one base has one set.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from memit_core.hparams import HParams
from memit_core.tokens import encode

OPENINGS = ("The", "Therefore", "Because", "I", "You")
TOP_K = 5
SEED = 0


def sample_contexts(view: Any, tokenizer: Any, hparams: HParams) -> list[str]:
    """Prefixes: "" for the bare prompt first, then `n_contexts` sampled ones, each ending in ". ".

    Each continues one of five openings by top-k sampling (k = 5) until it is `context_length`
    tokens long; braces become spaces.
    """
    generator = torch.Generator().manual_seed(SEED)
    prefixes = [""]
    for i in range(hparams.n_contexts):
        ids, _ = encode(tokenizer, OPENINGS[i % len(OPENINGS)])
        while len(ids) < hparams.context_length:
            ids = [*ids, _sample(view, ids, tokenizer.all_special_ids, generator)]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        prefixes.append(" ".join(text.replace("{", " ").replace("}", " ").split()) + ". ")
    return prefixes


@torch.no_grad()
def _sample(view: Any, ids: list[int], special: list[int], generator: torch.Generator) -> int:
    device = next(view.parameters()).device
    logits = view(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1]
    logits = logits.float().cpu()
    logits[[token for token in special if token < len(logits)]] = -torch.inf
    best = logits.topk(TOP_K)
    choice = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
    return int(best.indices[choice])


def encode_contexts(prefixes: list[str]) -> bytes:
    """JSON bytes of the prefixes."""
    return json.dumps({"prefixes": prefixes}, ensure_ascii=False).encode()


def decode_contexts(data: bytes) -> tuple[str, ...]:
    """Prefixes from what `encode_contexts` wrote."""
    return tuple(json.loads(data)["prefixes"])

"""Context templates: a few beginnings that the model samples itself, put before every prompt.

They make z hold in more than one context (official code: `get_context_templates`). Here they are
prefixes, sampled with a fixed seed and recorded, so that one base has one set.
"""

from __future__ import annotations

import json

import torch

from memit_core.hparams import HParams
from memit_core.model import Model
from memit_core.tokens import encode_text

OPENINGS = ("The", "Therefore", "Because", "I", "You")
TOP_K = 5
SEED = 0


def sample_contexts(model: Model, hparams: HParams) -> list[str]:
    """Prefixes: "" for the bare prompt first, then `n_contexts` sampled ones, each ending in ". ".

    Each continues one of five openings by top-k sampling (k = 5) until it is `context_length`
    tokens long; braces become spaces.
    """
    tokenizer, generator = model.tokenizer, torch.Generator().manual_seed(SEED)
    prefixes = [""]
    for i in range(hparams.n_contexts):
        ids, _ = encode_text(tokenizer, OPENINGS[i % len(OPENINGS)])
        while len(ids) < hparams.context_length:
            ids = [*ids, _sample(model, ids, generator)]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        prefixes.append(" ".join(text.replace("{", " ").replace("}", " ").split()) + ". ")
    return prefixes


@torch.no_grad()
def _sample(model: Model, ids: list[int], generator: torch.Generator) -> int:
    special = model.tokenizer.all_special_ids
    inputs = torch.tensor([ids], device=model.device)
    logits = model.view(input_ids=inputs, use_cache=False).logits[0, -1].float().cpu()
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

"""Free generations, many prompts at a time: top-k sampling, as the paper's code measures them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent
from memit_core.tokens import encode_text
from memit_core.views import view_of

TOP_K = 5
TOKENS = 100
"""Length of a text, its prompt included."""
BATCH_ROWS = 32
PAD = 0
"""Padded positions are masked: any id will do."""


def free_texts(
    model: Model,
    prompts: Sequence[str],
    *,
    seed: int,
    tokens: int = TOKENS,
    top_k: int = TOP_K,
    progress: ProgressCallback = silent,
) -> list[str]:
    """Each prompt with its continuation, `tokens` tokens together, in the order given.

    An end-of-text does not end a text, and is left out of it. The same seed, prompts and weights
    give the same texts; the global random state stays as it is.

    Raises:
        Cancelled: raised by `progress`.
    """
    tokenizer, device = model.tokenizer, model.device
    ids = [encode_text(tokenizer, prompt)[0] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    texts: dict[int, str] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(order), BATCH_ROWS):
            progress("generate", start, len(order))
            chunk = order[start : start + BATCH_ROWS]
            missing = max(0, tokens - min(len(ids[i]) for i in chunk))
            added = continuations(model, [ids[i] for i in chunk], missing, top_k=top_k)
            for i, new in zip(chunk, added, strict=True):
                row = [*ids[i], *new[: max(0, tokens - len(ids[i]))]]
                texts[i] = tokenizer.decode(row, skip_special_tokens=True)
    progress("generate", len(order), len(order))
    return [texts[i] for i in range(len(prompts))]


@torch.no_grad()
def continuations(
    model: Model,
    prompts: Sequence[list[int]],
    tokens: int,
    *,
    top_k: int = 1,
    ends: Sequence[int] = (),
) -> list[list[int]]:
    """The ids that follow each prompt's, `tokens` of them; `PAD` after one of `ends`.

    Args:
        top_k: the tokens that one is drawn from; 1 is greedy.
        ends: ids that end a text.
    """
    if tokens <= 0:
        return [[] for _ in prompts]
    device = model.device
    width = max(map(len, prompts))
    padded = [[PAD] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    generator = view_of(model.view)
    # Its own settings: those of the model's folder may sample otherwise or end early. transformers
    # derives each row's position ids from the mask.
    generator.generation_config = GenerationConfig(
        do_sample=top_k > 1,
        top_k=top_k if top_k > 1 else None,
        max_new_tokens=tokens,
        pad_token_id=PAD,
        eos_token_id=list(ends) or None,
    )
    output = generator.generate(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=torch.tensor(mask, device=device),
    )
    added: list[list[int]] = output[:, width:].tolist()
    return added

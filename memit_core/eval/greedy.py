"""Greedy answers, many prompts at a time, each until the model ends it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from memit_core.eval.generation import BATCH_ROWS, continuations
from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent
from memit_core.tokens import encode_text


def greedy_answers(
    model: Model,
    prompts: Sequence[str],
    tokens: int,
    *,
    stage: str = "generate",
    progress: ProgressCallback = silent,
) -> list[str]:
    """What follows each prompt, at most `tokens` tokens, in the order given.

    Prompts are composed and may hold special tokens, as those do that a chat template has made.

    Raises:
        Cancelled: raised by `progress`.
    """
    tokenizer = model.tokenizer
    ends = _ends(model)
    ids = [encode_text(tokenizer, prompt)[0] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    answers: dict[int, str] = {}
    for start in range(0, len(order), BATCH_ROWS):
        progress(stage, start, len(order))
        chunk = order[start : start + BATCH_ROWS]
        added = continuations(model, [ids[i] for i in chunk], tokens, ends=ends)
        for i, new in zip(chunk, added, strict=True):
            said = list(takewhile(lambda token: token not in ends, new))
            answers[i] = tokenizer.decode(said, skip_special_tokens=True)
    progress(stage, len(order), len(order))
    return [answers[i] for i in range(len(prompts))]


def _ends(model: Model) -> list[int]:
    """Ids that end an answer: those of the model's folder, and the tokenizer's own."""
    configured: Any = model.view.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*listed, model.tokenizer.eos_token_id] if i is not None})

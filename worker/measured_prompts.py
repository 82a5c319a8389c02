"""Bounding what a report costs: measuring prompts are left out where they are long and many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from contracts.ids import digest_of
from memit_core.facts import Fact
from memit_core.tokens import encode

FACT_TOKENS = 512
"""Of the measuring prompts of a fact, on average over the facts of a report."""
LEAST_TOKENS = 4_096


def within_budget(tokenizer: Any, facts: Sequence[Fact]) -> tuple[list[Fact], float]:
    """The facts with as many of their measuring prompts as the budget holds, and that share.

    Which ones are left out depends on their texts alone.
    """
    prompts = [
        (i, name, prompt)
        for i, fact in enumerate(facts)
        for name in ("paraphrase_prompts", "neighborhood_prompts")
        for prompt in getattr(fact, name)
    ]
    left = max(LEAST_TOKENS, FACT_TOKENS * len(facts))
    if sum(len(prompt) for _, _, prompt in prompts) > left:
        prompts.sort(key=lambda one: digest_of(one[2]))
    kept: set[tuple[int, str, str]] = set()
    for one in prompts:
        left -= len(encode(tokenizer, one[2])[0])
        if left < 0:
            break
        kept.add(one)
    if len(kept) == len(prompts):
        return list(facts), 1.0
    return [
        replace(
            fact,
            paraphrase_prompts=tuple(
                p for p in fact.paraphrase_prompts if (i, "paraphrase_prompts", p) in kept
            ),
            neighborhood_prompts=tuple(
                p for p in fact.neighborhood_prompts if (i, "neighborhood_prompts", p) in kept
            ),
        )
        for i, fact in enumerate(facts)
    ], len(kept) / len(prompts)

"""Bounding what a report costs: measuring prompts are left out where they are long and many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from contracts.ids import digest_of
from memit_core.facts import Fact
from memit_core.tokens import encode_text

FACT_TOKENS = 512
"""Of the measuring prompts of a fact, on average over the facts of a report."""
LEAST_TOKENS = 4_096
KINDS = ("paraphrase_prompts", "neighborhood_prompts")


def within_budget(tokenizer: Any, facts: Sequence[Fact]) -> tuple[list[Fact], float]:
    """The facts with as many of their measuring prompts as the budget holds, and that share.

    Which ones are left out depends on their texts alone.
    """
    places = [
        (i, name, k, prompt, len(encode_text(tokenizer, prompt)[0]))
        for i, fact in enumerate(facts)
        for name in KINDS
        for k, prompt in enumerate(getattr(fact, name))
    ]
    left = max(LEAST_TOKENS, FACT_TOKENS * len(facts))
    if sum(tokens for *_, tokens in places) <= left:
        return list(facts), 1.0
    kept = set()
    for i, name, k, _, tokens in sorted(places, key=lambda place: digest_of(place[3])):
        left -= tokens
        if left < 0:
            break
        kept.add((i, name, k))

    def some(i: int, name: str) -> tuple[str, ...]:
        return tuple(p for k, p in enumerate(getattr(facts[i], name)) if (i, name, k) in kept)

    cut = [
        replace(fact, paraphrase_prompts=some(i, KINDS[0]), neighborhood_prompts=some(i, KINDS[1]))
        for i, fact in enumerate(facts)
    ]
    return cut, len(kept) / len(places)

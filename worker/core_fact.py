"""A client's fact in the methods' own type."""

from __future__ import annotations

from contracts.facts import Fact
from memit_core.facts import Fact as CoreFact


def core_fact(fact: Fact) -> CoreFact:
    """The same fact, for `memit_core`."""
    return CoreFact(
        fact.subject,
        fact.prompt,
        fact.target_new,
        fact.target_true,
        tuple(fact.paraphrase_prompts),
        tuple(fact.neighborhood_prompts),
    )

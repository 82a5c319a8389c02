"""What a calibration comes to, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memit_core.calibrate.trial import Outcome

PERCENT = 100
LEARNED = 0.9
"""Share of facts said from which a model takes to the method."""
POOR = 0.5
HARM = 1.05
"""Perplexity ratio up to which other text hardly suffers."""
SPECIFIC = 0.05
"""Neighbours lost up to which it hardly hurts."""


def verdict(before: Outcome, many: Outcome, few: Outcome) -> list[str]:
    """Sentences for the user.

    Args:
        before: the unedited model on the facts of `many`.
        many: all the facts at once.
        few: the largest trial of fewer facts.
    """
    return [
        _judgement(before, many),
        *_figures(before, many),
        _cost(many),
        *_advice(before, many, few),
    ]


def _judgement(before: Outcome, many: Outcome) -> str:
    if many.said < POOR:
        return (
            f"This model cannot be relied on to learn: of {many.facts} facts at once it says "
            f"{PERCENT * many.said:.0f}%. Do not serve edits of it."
        )
    lost = before.neighborhood - many.neighborhood
    clean = many.perplexity_ratio <= HARM and lost <= SPECIFIC
    if many.said >= LEARNED and clean:
        return f"This model takes {many.facts} facts at once, and other knowledge hardly suffers."
    if many.said >= LEARNED:
        return f"This model takes {many.facts} facts at once, but other knowledge suffers."
    return f"This model learns most of {many.facts} facts at once, not all."


def _figures(before: Outcome, many: Outcome) -> Iterator[str]:
    yield (
        f"Said greedily, in the words posted: {PERCENT * many.said:.1f}%; preferred to the old "
        f"object: {PERCENT * many.efficacy:.1f}%, in other words {PERCENT * many.paraphrase:.1f}%."
    )
    yield (
        f"Other subjects that keep their own object: {PERCENT * many.neighborhood:.1f}% "
        f"({PERCENT * before.neighborhood:.1f}% unedited). Perplexity of other text: "
        f"× {many.perplexity_ratio:.3f}."
    )


def _cost(many: Outcome) -> str:
    fact = many.z_seconds / many.facts
    return (
        f"On this device a fact costs {fact:.1f} s of optimisation, once; writing and measuring "
        f"{many.facts} took {many.seconds:.0f} s."
    )


def _advice(before: Outcome, many: Outcome, few: Outcome) -> Iterator[str]:
    if many.perplexity_ratio > HARM:
        # Drift grows about as the number of facts does.
        fits = int(many.facts * (HARM - 1) / (many.perplexity_ratio - 1))
        yield f"Keep fewer facts: up to about {max(fits, 1)}, other text should stay within 5%."
    elif many.perplexity_ratio > 1:
        fits = int(many.facts * (HARM - 1) / (many.perplexity_ratio - 1))
        most = min(fits, MOST_TOLD * many.facts)
        yield (
            f"Other text should stay within 5% up to {'at least ' if fits > most else 'about '}"
            f"{_round(most)} facts; more were not tried."
        )
    if few.said - many.said > 1 - LEARNED:
        yield f"{few.facts} at once were learned better: {PERCENT * few.said:.0f}% said."
    if before.neighborhood < POOR:
        yield "Unedited, it knows less than half of the neighbours: a small or untrained model?"


MOST_TOLD = 5
"""Times the facts tried, that a straight line may be drawn on."""


def _round(count: int) -> int:
    return count if count < 20 else count // 10 * 10


def best_of_fewer(outcomes: Sequence[Outcome], many: Outcome) -> Outcome:
    """The best of those with fewer facts than `many`; itself if there is none."""
    fewer = [one for one in outcomes if one.facts < many.facts]
    return max(fewer, key=lambda one: one.soft, default=many)

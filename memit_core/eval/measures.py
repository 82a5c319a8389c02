"""What is measured of one record, by the names under which it is reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from statistics import fmean


@dataclass(frozen=True)
class Measures:
    """One record on one set of weights. None where the record gives nothing to measure by.

    Shares and probabilities are between 0 and 1, differences of probabilities between -1 and 1.
    """

    efficacy: float | None = None
    """On the edit's own prompt. CounterFact: p(new) > p(true); zsRE: share of right tokens."""
    paraphrase: float | None = None
    """The same on paraphrases, the mean over them."""
    neighborhood: float | None = None
    """CounterFact: share of neighbours with p(true) > p(new); zsRE: share of right tokens of the
    true answer to an unrelated question."""
    efficacy_magnitude: float | None = None
    """p(new) - p(true)."""
    paraphrase_magnitude: float | None = None
    """Mean of p(new) - p(true) over paraphrases."""
    neighborhood_magnitude: float | None = None
    """Mean of p(true) - p(new) over neighbours."""
    generation_success: float | None = None
    """Whether a greedy answer to the edit's prompt begins with the target."""
    ends_right: float | None = None
    """Whether it also ends where the target ends: the next token does not go on with its word."""
    paraphrase_generation_success: float | None = None
    """Share of paraphrases whose greedy answer begins with the target."""
    chat: float | None = None
    """Mean of the four below, of those that there are."""
    chat_as_posted: float | None = None
    """Whether an assistant's turn that begins with the edit's prompt goes on with the target."""
    chat_to_complete: float | None = None
    """Whether the target is in the answer to a user who asks to complete the prompt."""
    chat_question: float | None = None
    """Whether it is in the answer to the prompt as an indirect question."""
    chat_other_words: float | None = None
    """Share of paraphrases, as a user's turn, whose answer holds it."""
    generation_entropy: float | None = None
    """Mean weighted entropy of the words of free generations, in bits."""
    reference_score: float | None = None
    """Cosine of generations and reference texts."""


NAMES = tuple(field.name for field in fields(Measures))
SHARES = ("efficacy", "paraphrase", "neighborhood")
"""What the Score is the harmonic mean of."""


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    listed = [float(value) for value in values]
    return fmean(listed) if listed else None

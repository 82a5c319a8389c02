"""ES, PS, NS and their magnitudes on CounterFact, as the paper's code defines them.

p(y) is exp(mean log-probability of y's tokens). Comparisons are strict: a tie is no success. Each
record's value is the mean over its own prompts; what is reported is the mean over records
(`memit_core.eval.summary`), so a record counts once however many prompts it has.
"""

from __future__ import annotations

from collections.abc import Sequence

from memit_core.eval.measures import Measures, mean
from memit_core.eval.records import Record
from memit_core.target_scores import TargetScore

Question = tuple[str, str]


def counterfact_questions(record: Record) -> list[Question]:
    """(prompt, target) pairs, each prompt with the new and then with the true object."""
    new, true = record.fact.target_new, _true(record)
    own = [
        (prompt, target)
        for prompt in (record.fact.filled, *record.paraphrases)
        for target in (new, true)
    ]
    return own + [
        (prompt, target) for prompt, answer in record.neighbors for target in (new, answer)
    ]


def measure_counterfact(record: Record, scores: Sequence[TargetScore]) -> Measures:
    """Measures of a record from the scores of its questions, in their order."""
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    end = 1 + len(record.paraphrases)
    own, paraphrases, neighbors = pairs[:1], pairs[1:end], pairs[end:]
    return Measures(
        efficacy=mean(new.p > true.p for new, true in own),
        paraphrase=mean(new.p > true.p for new, true in paraphrases),
        neighborhood=mean(true.p > new.p for new, true in neighbors),
        efficacy_magnitude=mean(new.p - true.p for new, true in own),
        paraphrase_magnitude=mean(new.p - true.p for new, true in paraphrases),
        neighborhood_magnitude=mean(true.p - new.p for new, true in neighbors),
        generation_success=mean(new.greedy for new, _ in own),
        ends_right=mean(new.exact for new, _ in own),
        paraphrase_generation_success=mean(new.greedy for new, _ in paraphrases),
    )


def _true(record: Record) -> str:
    if record.fact.target_true is None:
        raise ValueError(f"record {record.index}: CounterFact needs target_true")
    return record.fact.target_true

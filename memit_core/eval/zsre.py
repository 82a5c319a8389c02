"""Efficacy, paraphrase and specificity on zsRE, as the paper's code defines them.

All three are teacher-forced top-1 accuracy: the share of the answer's tokens that are the most
probable ones after the question and the answer's tokens before them. Specificity is that of the
true answer to an unrelated natural question; it is low before any edit, since the model does not
know most of these answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from memit_core.eval.counterfact import Question
from memit_core.eval.measures import Measures, mean
from memit_core.eval.records import Record
from memit_core.target_scores import TargetScore


def zsre_questions(record: Record) -> list[Question]:
    """(prompt, target) pairs: the edit's question, its rephrasings, the unrelated question."""
    target = record.fact.target_new
    own = [(prompt, target) for prompt in (record.fact.filled, *record.paraphrases)]
    return [*own, *record.neighbors]


def measure_zsre(record: Record, scores: Sequence[TargetScore]) -> Measures:
    """Measures of a record from the scores of its questions, in their order."""
    end = 1 + len(record.paraphrases)
    paraphrases = scores[1:end]
    return Measures(
        efficacy=mean(scores[0].hits),
        paraphrase=mean(hit for score in paraphrases for hit in score.hits),
        neighborhood=mean(hit for score in scores[end:] for hit in score.hits),
        generation_success=float(scores[0].greedy),
        ends_right=float(scores[0].exact),
        paraphrase_generation_success=mean(score.greedy for score in paraphrases),
    )

"""What each step of a training is about: a function of the data, the seed and the step alone.

So a training that was broken off goes on as if it had not been.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from memit_core.covariance import corpus_rows
from memit_core.errors import MemitError
from memit_core.evaluate import CONTROL_CHARS
from memit_core.facts import Fact
from memit_core.methods.mend.losses import Lesson
from memit_core.tokens import Row, continuation_row, target_row

HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 32
UNRELATED_TOKENS = 64
"""Of other text a lesson."""
POOL_TOKENS = 100_000
"""Of other text in all."""
UNRELATED_HELD_OUT = 8
"""Pieces of other text that no step is about."""


class Lessons:
    """Facts and other text, some of both held out.

    Args:
        facts: with the paraphrases that the edited model is asked in.
        corpus: other text; its end, on which drift is measured, is left out.
        together: facts of a lesson.

    Raises:
        MemitError: there are too few facts, or no text.
        InvalidFact: a fact cannot be tokenised as needed.
    """

    def __init__(
        self, tokenizer: Any, facts: Sequence[Fact], corpus: str, together: int, seed: int
    ) -> None:
        self._tokenizer, self._together, self._seed = tokenizer, together, seed
        draw = random.Random(f"{seed}/held out")  # noqa: S311
        shuffled = draw.sample(list(facts), len(facts))
        held_out = min(max(together, round(HELD_OUT_SHARE * len(facts))), MOST_HELD_OUT)
        self._held_out, self._facts = shuffled[:held_out], shuffled[held_out:]
        if len(self._facts) < together:
            raise MemitError(f"{len(facts)} records are too few to train on {together} at a time")
        text = corpus[:-CONTROL_CHARS] or corpus
        pieces = _pieces(corpus_rows(tokenizer, text, POOL_TOKENS))
        draw.shuffle(pieces)
        self._spare = pieces[:UNRELATED_HELD_OUT]
        self._pieces = pieces[UNRELATED_HELD_OUT:] or pieces

    def of_step(self, step: int) -> Lesson:
        """What the step is about."""
        draw = random.Random(f"{self._seed}/{step}")  # noqa: S311
        facts = draw.sample(self._facts, self._together)
        paraphrases = [draw.choice(fact.paraphrase_prompts or ("",)) for fact in facts]
        return self._lesson(facts, paraphrases, draw.choice(self._pieces))

    def held_out(self) -> list[Lesson]:
        """Lessons on what no step is about; each fact with its first paraphrase."""
        lessons = []
        for i, start in enumerate(range(0, len(self._held_out), self._together)):
            facts = self._held_out[start : start + self._together]
            paraphrases = [(*fact.paraphrase_prompts, "")[0] for fact in facts]
            lessons.append(self._lesson(facts, paraphrases, self._spare[i % len(self._spare)]))
        return lessons

    def _lesson(self, facts: Sequence[Fact], paraphrases: Sequence[str], other: Row) -> Lesson:
        own = [target_row(self._tokenizer, fact) for fact in facts]
        reworded = [
            continuation_row(self._tokenizer, paraphrase, fact.target_new)
            for fact, paraphrase in zip(facts, paraphrases, strict=True)
            if paraphrase
        ]
        return Lesson(own, [*own, *reworded], [other])


def _pieces(rows: Sequence[Row]) -> list[Row]:
    return [
        Row(row.ids[start : start + UNRELATED_TOKENS], 0)
        for row in rows
        for start in range(0, len(row.ids), UNRELATED_TOKENS)
    ]

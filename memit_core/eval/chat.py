"""Facts asked in chats, through the model's own chat template, before and after alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from memit_core.chat_context import opened_chat
from memit_core.eval.greedy import greedy_answers
from memit_core.eval.measures import Measures, mean
from memit_core.eval.records import Record
from memit_core.joining import said_in
from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent
from memit_core.question_form import as_indirect_question
from memit_core.target_scores import score_targets

OPENING = "Tell me something that you know."
"""What the user says before an assistant's turn that begins with a fact's own prompt."""
COMPLETE = "Complete this sentence: {}"
ANSWER_TOKENS = 24
"""Of an answer to a user's turn, in which the target is looked for."""
POSTED, TO_COMPLETE, QUESTION, OTHER_WORDS = FORMS = (
    "chat_as_posted",
    "chat_to_complete",
    "chat_question",
    "chat_other_words",
)
"""The ways in which a fact is asked, as `Measures` names them."""

UserTurn = Callable[[str, str], str]
"""From a question and what the user would say, to what the user says."""


def as_it_is(_question: str, said: str) -> str:
    """A user's turn with nothing added."""
    return said


class ChatScores:
    """How often the records' targets are said in chats.

    Args:
        records: those that are asked.
        tokenizer: of the model; without a chat template nothing is asked.
        turn: makes every user's turn; by default it is what the form says and nothing else.
    """

    def __init__(
        self, records: Sequence[Record], tokenizer: Any, turn: UserTurn = as_it_is
    ) -> None:
        asked = records if tokenizer.chat_template else []
        self._chosen = {record.index for record in asked}
        self._tokenizer = tokenizer
        self._turn = turn

    @property
    def count(self) -> int:
        """Records that are asked."""
        return len(self._chosen)

    def add(
        self,
        model: Model,
        records: Sequence[Record],
        measures: Sequence[Measures],
        progress: ProgressCallback = silent,
    ) -> list[Measures]:
        """The measures with those of chats where the record is one of those chosen.

        Raises:
            MemitError: the chat template refuses a user's turn.
            Cancelled: raised by `progress`.
        """
        asked = [record for record in records if record.index in self._chosen]
        if not asked:
            return list(measures)
        posted = self._posted(model, asked)
        answered = self._answered(model, asked, progress)
        found = {}
        for record, hit, shares in zip(asked, posted, answered, strict=True):
            shares = {POSTED: float(hit), **shares}
            found[record.index] = {"chat": mean(shares.values()), **shares}
        return [
            replace(measure, **found.get(record.index, {}))
            for record, measure in zip(records, measures, strict=True)
        ]

    def _posted(self, model: Model, records: Sequence[Record]) -> list[bool]:
        """Whether an assistant's turn that begins with the prompt goes on with the target."""
        pairs = []
        for record in records:
            filled = record.fact.filled
            opened = opened_chat(self._tokenizer, self._turn(filled, OPENING))
            pairs.append((f"{opened}{filled}", record.fact.target_new))
        return [score.exact for score in score_targets(model, pairs, ends=range(len(pairs)))]

    def _answered(
        self, model: Model, records: Sequence[Record], progress: ProgressCallback
    ) -> list[dict[str, float]]:
        """By form, the share of user's turns whose answer holds the target; per record."""
        turns = [user_turns(record) for record in records]
        prompts = [
            opened_chat(self._tokenizer, self._turn(question, said))
            for of_record in turns
            for of_form in of_record.values()
            for question, said in of_form
        ]
        answers = iter(
            greedy_answers(model, prompts, ANSWER_TOKENS, stage="chat", progress=progress)
        )
        shares = []
        for record, of_record in zip(records, turns, strict=True):
            hits = {
                form: mean(said_in(next(answers), record.fact.target_new) for _ in asked)
                for form, asked in of_record.items()
            }
            shares.append({form: share for form, share in hits.items() if share is not None})
        return shares


def user_turns(record: Record) -> dict[str, list[tuple[str, str]]]:
    """By form, (question, what the user says); a prompt that is a question is not to complete."""
    filled = record.fact.filled
    asks = filled.rstrip().endswith("?")
    # Not the direct question: z may have read that one.
    question = as_indirect_question(record.fact).filled
    return {
        TO_COMPLETE: [] if asks else [(filled, COMPLETE.format(filled))],
        QUESTION: [(question, question)],
        OTHER_WORDS: [(prompt, prompt) for prompt in record.paraphrases],
    }

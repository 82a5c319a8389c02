"""Asking an edited model as a client would, before its version is committed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from contracts.reports import ChatReport
from memit_core.facts import Fact
from memit_core.joining import compose, goes_on
from memit_core.loading import LoadedModel
from memit_core.progress import ProgressCallback
from memit_core.tokens import encode_text, joined, target_ids
from worker.answers import BASE, EDITED, Answer, Answers, Question
from worker.chats import Chat
from worker.engine.text import Detokenizer
from worker.neighbors import neighbors

ASKED = 256
"""Facts of an edit that are asked; of more, those that seem missed come first."""
MORE_TOKENS = 2
"""Beyond the target, to see whether its word goes on."""
NEIGHBOR_TOKENS = 4


@dataclass(frozen=True)
class Verdict:
    """What came of one fact."""

    answer: str
    success: bool
    """The answer is the target, and ends where it ends."""
    reason: str | None
    """Why it is not, and what to do about it."""


@dataclass(frozen=True)
class ChangedNeighbor:
    """A neighbour whose answer changed."""

    fact: int
    """Number of the fact whose prompt it was asked."""
    prompt: str
    before: str
    after: str
    says_target: bool


@dataclass
class InterviewResult:
    """What all the answers come to."""

    verdicts: dict[int, Verdict] = field(default_factory=dict)
    """By the number of the fact; of those that were asked."""
    neighbors: int = 0
    changed: list[ChangedNeighbor] = field(default_factory=list)
    chats: dict[str, list[ChatReport]] = field(default_factory=dict)
    """By the id of the fact; of those that were asked in one."""


class Interview:
    """Asks one base model and what is made of it."""

    def __init__(self, loaded: LoadedModel, max_context: int) -> None:
        self._tokenizer = loaded.tokenizer
        self._answers = Answers(loaded, max_context)

    def run(
        self,
        weights: Mapping[str, torch.Tensor],
        facts: Sequence[Fact],
        likely: Sequence[bool],
        live: Collection[Fact],
        chats: Sequence[Chat],
        progress: ProgressCallback,
    ) -> InterviewResult:
        """Ask the facts, also in chats, and some neighbours.

        Args:
            weights: of the edited modules, by path, as they are served.
            facts: of the edit.
            likely: whether each fact seems to be learned, by its probabilities.
            live: all facts of the version.
            chats: those to ask, of the base too.

        Raises:
            Cancelled: raised by `progress`.
        """
        chosen = sorted(range(len(facts)), key=lambda i: likely[i])[:ASKED]
        expected = {i: self._expected(facts[i]) for i in chosen}
        near = list(neighbors(self._tokenizer, facts, live))
        questions = [Question(facts[i].filled, EDITED, expected[i][1]) for i in chosen]
        for version in (BASE, EDITED):
            questions += [Question(one.filled, version, NEIGHBOR_TOKENS) for _, one in near]
            questions += [chat.question(version) for chat in chats]
        answers = iter(self._answers.ask(weights, questions, progress))
        result = InterviewResult(neighbors=len(near))
        for i in chosen:
            result.verdicts[i] = _verdict(facts[i], expected[i][0], next(answers))
        before, chats_before, after, chats_after = (
            list(islice(answers, len(some))) for some in (near, chats, near, chats)
        )
        for chat, was, now in zip(chats, chats_before, chats_after, strict=True):
            result.chats.setdefault(chat.fact_id, []).append(chat.report(now, was))
        for (i, one), was, now in zip(near, before, after, strict=True):
            # Later words change with every nudge; the first is the answer.
            if _first_word(was) != _first_word(now) and not (was.error or now.error):
                says = now.text.startswith(self._expected(one)[0])
                result.changed.append(ChangedNeighbor(i, one.filled, was.text, now.text, says))
        return result

    def _expected(self, fact: Fact) -> tuple[str, int]:
        """The target as an answer shows it, and for how many tokens to ask."""
        ids, _ = encode_text(self._tokenizer, fact.filled)
        targets = target_ids(self._tokenizer, fact.filled, fact.target_new)
        shown = Detokenizer(self._tokenizer, ids)
        text = "".join([*map(shown.push, targets), shown.end()])
        # A tokenizer that loses nothing shows the text itself.
        written = compose(joined(self._tokenizer, fact.filled, fact.target_new))
        return (written if compose(text) == written else text), len(targets) + MORE_TOKENS


def _first_word(answer: Answer) -> str:
    return (answer.text.split() or [""])[0]


def _verdict(fact: Fact, expected: str, answer: Answer) -> Verdict:
    if answer.error is not None:
        return Verdict("", success=False, reason=f"asked {fact.filled!r}: {answer.error}")
    text = compose(answer.text)
    came = f"asked {fact.filled!r}, it answers {answer.text!r}"
    if not text.startswith(compose(expected)):
        return Verdict(
            answer.text,
            success=False,
            reason=f"{came}. Try the fact in other words, with fewer others in one edit, or with a "
            "smaller mom2_update_weight",
        )
    if goes_on(expected, text[len(compose(expected)) :]):
        return Verdict(
            answer.text,
            success=False,
            reason=f"{came}: after target_new its last word goes on. Try target_new with a full "
            "stop or a few words more at its end",
        )
    return Verdict(answer.text, success=True, reason=None)

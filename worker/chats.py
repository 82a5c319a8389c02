"""Asking facts in chats, through the model's own chat template, and what their answers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.chats import Message
from contracts.facts import Fact
from contracts.ids import digest_of
from contracts.reports import ChatReport
from memit_core.joining import compose, goes_on, said_in
from memit_core.tokens import encode_text, target_ids
from worker.answers import Answer, Question

CHATS = 64
"""Chats of a report that are asked at most."""
CHAT_TOKENS = 4_096
"""Of the texts of all those chats."""
ANSWER_TOKENS = 32
"""Of an answer to a user's question, besides those of the target that it shall hold."""
MORE_TOKENS = 2
"""Beyond the target that an assistant's turn shall go on with, to see whether its word goes on."""
OPENING = "Tell me something that you know."
"""What the user says before an assistant's turn that begins with a fact's own prompt."""
NO_TEMPLATE = "the model has no chat template"


@dataclass(frozen=True)
class Chat:
    """One chat by which a fact is measured."""

    fact_id: str
    place: int | None
    """Number in the fact's `chat_prompts`; None: the fact has none, and this stands for them."""
    messages: tuple[Message, ...]
    target: str
    tokens: int
    """Of an answer in which the target is looked for."""

    def question(self, version: str) -> Question:
        """Ask it of a version."""
        return Question(self.messages, version, self.tokens)

    def success(self, text: str) -> bool:
        """Whether an answer says the target.

        An answer to a user's question has to hold it, as whole words and in its case; an
        assistant's turn that begins with the fact's prompt has to go on with it.
        """
        if self.place is not None:
            return said_in(text, self.target)
        text, wanted = (compose(one).strip() for one in (text, self.target))
        return text.startswith(wanted) and not goes_on(wanted, text[len(wanted) :])

    def report(self, answer: Answer, base: Answer | None = None) -> ChatReport:
        """What came of it."""
        if answer.error is not None:
            return ChatReport(prompt=self.place, reason=answer.error)
        found = ChatReport(prompt=self.place, success=self.success(answer.text), answer=answer.text)
        if base is None or base.error is not None:
            return found
        said = {"base_success": self.success(base.text), "base_answer": base.text}
        return found.model_copy(update=said)


def chats_of(tokenizer: Any, facts: Mapping[str, Fact]) -> list[Chat]:
    """The chats that a report on these facts (by id) asks: of each its first, then its second, ...

    Which ones are left out of very many or very long ones depends on their texts alone. A model
    without a chat template is asked none.
    """
    if tokenizer.chat_template is None:
        return []
    found = [chat for fact_id, fact in facts.items() for chat in _chats(tokenizer, fact_id, fact)]
    chosen: list[Chat] = []
    left = CHAT_TOKENS
    for chat in sorted(found, key=_rank)[:CHATS]:
        left -= sum(len(encode_text(tokenizer, one.content)[0]) for one in chat.messages)
        if left < 0:
            break
        chosen.append(chat)
    return chosen


def chat_success(reports: Sequence[ChatReport], of: str = "success") -> float | None:
    """Share of a fact's chats that say its target; None if none could be asked.

    Args:
        of: the field, `success` or `base_success`.
    """
    known = [getattr(one, of) for one in reports if getattr(one, of) is not None]
    return sum(known) / len(known) if known else None


def mean_success(by_fact: Mapping[str, Sequence[ChatReport]], of: str = "success") -> float | None:
    """Mean of `chat_success` over the facts that could be asked."""
    known = [share for one in by_fact.values() if (share := chat_success(one, of)) is not None]
    return sum(known) / len(known) if known else None


def _rank(chat: Chat) -> tuple[int, str]:
    return chat.place or 0, digest_of([chat.fact_id, *(one.content for one in chat.messages)])


def _chats(tokenizer: Any, fact_id: str, fact: Fact) -> Iterator[Chat]:
    target = len(target_ids(tokenizer, fact.filled, fact.target_new))
    for place, asked in enumerate(fact.chat_prompts):
        yield Chat(fact_id, place, tuple(asked), fact.target_new, target + ANSWER_TOKENS)
    if not fact.chat_prompts:
        begun = (
            Message(role="user", content=OPENING),
            Message(role="assistant", content=fact.filled),
        )
        yield Chat(fact_id, None, begun, fact.target_new, target + MORE_TOKENS)

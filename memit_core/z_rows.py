"""The token rows that one group's z is optimised on, and how much a step runs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memit_core.chat_context import ChatContext
from memit_core.errors import InvalidFact
from memit_core.facts import Fact, Group
from memit_core.joining import ends_in_word
from memit_core.question_form import as_other_question
from memit_core.tokens import Row, brings_special, contexts_of, subject_row, target_row

MAX_GROUP_TOKENS = 32_768
"""A group is optimised whole: its rows and their gradients are in memory together."""


@dataclass(frozen=True)
class GroupRows:
    """The sequences of one group: every fact in every context, then the subject's KL row."""

    facts: list[list[Row]]
    """By context, the bare one first, and wording: a row a fact, or for those that have another
    wording."""
    subject: Row

    @property
    def live(self) -> int:
        """Tokens that a step runs, padding within the group included."""
        rows = [row for context in self.facts for row in context]
        return (len(rows) + 1) * max(len(row.ids) - row.lookup for row in rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Live and preceding tokens of the longest row: groups alike in it waste no padding."""
        rows = [row for context in self.facts for row in context]
        return max(len(row.ids) - row.lookup for row in rows), max(row.lookup for row in rows)


def group_rows(
    tokenizer: Any,
    group: Group,
    contexts: Sequence[str],
    max_tokens: int | None,
    ends: bool,
    chat: ChatContext | None = None,
    question: bool = False,
) -> GroupRows:
    """Tokenise a group.

    Args:
        contexts: prefixes, the empty one first.
        chat: one context more.
        max_tokens: longest prompt and target together, in the bare context.
        ends: whether targets that end in a word are followed to their end.
        question: whether the prompt as a question is read too, in every context.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed, or the group has too many tokens.
    """
    prefixes = [*contexts, chat.before] if chat else contexts
    wordings = 1 + question
    facts: list[list[Row]] = [[] for _ in prefixes for _ in range(wordings)]
    for fact in group.facts:
        end = ends and ends_in_word(fact.target_new)
        for w, asked in enumerate(wordings_of(tokenizer, fact, question)):
            for c, context in enumerate(contexts_of(tokenizer, asked, prefixes)):
                after = chat.after if chat and c == len(contexts) and context == chat.before else ""
                limit = None if c or w else max_tokens
                row = target_row(tokenizer, asked, context, after, max_tokens=limit, ends=end)
                facts[c * wordings + w].append(row)
    found = GroupRows(facts, subject_row(tokenizer, group.facts[0]))
    if found.live > MAX_GROUP_TOKENS:
        raise InvalidFact(
            f"has {len(group.facts)} live facts, {found.live} tokens in all their contexts, "
            f"of which at most {MAX_GROUP_TOKENS} can be optimised together",
            subject=group.subject,
            field="subject",
            limit=MAX_GROUP_TOKENS,
        )
    return found


def wordings_of(tokenizer: Any, fact: Fact, question: bool) -> list[Fact]:
    """The fact as posted, and where asked for as a question; not a prompt that may be a chat."""
    if not question or brings_special(tokenizer, fact.filled):
        return [fact]
    other = as_other_question(fact)
    return [fact] if other is None else [fact, other]


def rows_by_context(groups: Sequence[GroupRows]) -> list[list[Row]]:
    """The rows of all facts of a batch, context by context, in each of them group by group."""
    contexts = range(len(groups[0].facts))
    return [[row for group in groups for row in group.facts[c]] for c in contexts]

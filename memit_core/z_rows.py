"""The token rows that one group's z is optimised on, and how much a step runs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memit_core.chat_context import ChatContext
from memit_core.errors import InvalidFact
from memit_core.facts import Group
from memit_core.joining import ends_in_word
from memit_core.tokens import Row, contexts_of, subject_row, target_row

MAX_GROUP_TOKENS = 32_768
"""A group is optimised whole: its rows and their gradients are in memory together."""


@dataclass(frozen=True)
class GroupRows:
    """The sequences of one group: every fact in every context, then the subject's KL row."""

    facts: list[list[Row]]
    """By context, the bare one first; a row a fact."""
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
) -> GroupRows:
    """Tokenise a group.

    Args:
        contexts: prefixes, the empty one first.
        chat: one context more.
        max_tokens: longest prompt and target together, in the bare context.
        ends: whether targets that end in a word are followed to their end.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed, or the group has too many tokens.
    """
    by_fact = []
    for fact in group.facts:
        prefixes = [*contexts, chat.before] if chat else contexts
        bare, *others = contexts_of(tokenizer, fact, prefixes)
        end = ends and ends_in_word(fact.target_new)
        row = target_row(tokenizer, fact, bare, max_tokens=max_tokens, ends=end)
        by_fact.append([row])
        for other in others:
            after = chat.after if chat and other == chat.before else ""
            by_fact[-1].append(target_row(tokenizer, fact, other, after, ends=end))
    facts = [list(of_context) for of_context in zip(*by_fact, strict=True)]
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


def rows_by_context(groups: Sequence[GroupRows]) -> list[list[Row]]:
    """The rows of all facts of a batch, context by context, in each of them group by group."""
    contexts = range(len(groups[0].facts))
    return [[row for group in groups for row in group.facts[c]] for c in contexts]

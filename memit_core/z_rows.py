"""The token rows that one group's z is optimised on, and how much a step runs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    tokenizer: Any, group: Group, contexts: Sequence[str], max_tokens: int | None, ends: bool
) -> GroupRows:
    """Tokenise a group.

    Args:
        contexts: prefixes, the empty one first.
        max_tokens: longest prompt and target together, in the bare context.
        ends: whether targets that end in a word are followed to their end.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed, or the group has too many tokens.
    """
    by_fact = [
        [
            target_row(
                tokenizer,
                fact,
                context,
                max_tokens=None if c else max_tokens,
                ends=ends and ends_in_word(fact.target_new),
            )
            for c, context in enumerate(contexts_of(tokenizer, fact, contexts))
        ]
        for fact in group.facts
    ]
    facts = [list(of_context) for of_context in zip(*by_fact, strict=True)]
    rows = GroupRows(facts, subject_row(tokenizer, group.facts[0]))
    if rows.live > MAX_GROUP_TOKENS:
        raise InvalidFact(
            f"has {len(group.facts)} live facts, {rows.live} tokens in all their contexts, "
            f"of which at most {MAX_GROUP_TOKENS} can be optimised together",
            subject=group.subject,
            field="subject",
            limit=MAX_GROUP_TOKENS,
        )
    return rows


def rows_by_context(groups: Sequence[GroupRows]) -> list[list[Row]]:
    """The rows of all facts of a batch, context by context, in each of them group by group."""
    contexts = range(len(groups[0].facts))
    return [[row for group in groups for row in group.facts[c]] for c in contexts]

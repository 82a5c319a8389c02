"""Automatic neighbours: other subjects that end as a fact's own does, and might change with it.

A fact is written where its subject's last token is read. "Apple Inc." and "Microsoft Inc." share
theirs, so a fact about the one may change answers about the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from memit_core.errors import InvalidFact
from memit_core.facts import Fact
from memit_core.joining import compose
from memit_core.tokens import prompt_row

STEMS = ("Northern", "Velmora")
"""What made-up subjects begin with."""
OF_A_FACT = 3
FACTS = 4
"""Facts of an edit, the first ones, whose neighbours are asked."""


def neighbors(
    tokenizer: Any, facts: Sequence[Fact], live: Collection[Fact]
) -> Iterator[tuple[int, Fact]]:
    """Facts about neighbours, each with the number of the fact whose prompt and target it has.

    Args:
        facts: those of the edit.
        live: all facts of the version; their subjects are neighbours before made-up ones are.
    """
    written = {fact.filled for fact in live}
    known = sorted({compose(fact.subject).strip() for fact in live})
    for number, fact in enumerate(facts[:FACTS]):
        own = compose(fact.subject).strip()
        last_word = own.rpartition(" ")[2]
        if last_word == own:
            continue  # nothing goes before what decides
        alike = [other for other in known if other != own and other.endswith(last_word)]
        made_up = [f"{stem} {last_word}" for stem in STEMS]
        for subject in [*alike[: OF_A_FACT - len(STEMS)], *made_up][:OF_A_FACT]:
            neighbor = replace(fact, subject=subject)
            if neighbor.filled not in written and _ends_alike(tokenizer, fact, neighbor):
                yield number, neighbor


def _ends_alike(tokenizer: Any, fact: Fact, neighbor: Fact) -> bool:
    try:
        rows = [prompt_row(tokenizer, one) for one in (fact, neighbor)]
    except InvalidFact:
        return False
    return len({row.ids[row.lookup] for row in rows}) == 1

"""A record of a dataset: what is written, and what is asked afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memit_core.facts import Fact


@dataclass(frozen=True)
class Record:
    """One edit and the prompts that measure it."""

    index: int
    """Where it stands in its file, counted from 0."""
    fact: Fact
    """What is written; `target_true` is the old object where the dataset gives one."""
    paraphrases: tuple[str, ...]
    neighbors: tuple[tuple[str, str], ...]
    """(prompt, its true answer): what the edit must leave as it is."""
    generation_prompts: tuple[str, ...] = ()
    reference_texts: tuple[str, ...] = ()
    """Texts about things of which `target_new` is true."""

    @property
    def request(self) -> Fact:
        """The fact without anything that only measures it."""
        return Fact(self.fact.subject, self.fact.prompt, self.fact.target_new)


def without_conflicts(records: Sequence[Record]) -> list[Record]:
    """The records in their order, without those that a later one contradicts.

    Records contradict each other when subject and prompt are the same and target_new is not. The
    last one stays, as a newer fact replaces an older one in the service; what is repeated word for
    word stays each time.
    """
    newest = {(r.fact.subject, r.fact.prompt): r.fact.target_new for r in records}
    return [r for r in records if newest[r.fact.subject, r.fact.prompt] == r.fact.target_new]


def spread(records: Sequence[Record], most: int | None) -> list[Record]:
    """At most so many of the records, at equal distances; all of them for None."""
    count = len(records) if most is None else min(most, len(records))
    return [records[i * len(records) // count] for i in range(count)]

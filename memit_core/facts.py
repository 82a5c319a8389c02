"""Facts and groups: what is written, and which facts share one target vector."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from memit_core.errors import InvalidFact

SLOT = "{}"


@dataclass(frozen=True)
class Fact:
    """`prompt` with its one `{}` replaced by `subject` shall continue as `target_new`.

    The fields after `target_new` only measure an edit (names as in CounterFact).

    Raises:
        InvalidFact: the subject or target is empty, or the prompt has not exactly one `{}`.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.subject.strip():
            raise InvalidFact("is empty", subject=self.subject, field="subject")
        if not self.target_new.strip():
            raise InvalidFact("is empty", subject=self.subject, field="target_new")
        slots = self.prompt.count(SLOT)
        if slots != 1:
            raise InvalidFact(
                f"must contain exactly one {{}}, found {slots}",
                subject=self.subject,
                field="prompt",
                limit=1,
            )

    @property
    def content(self) -> tuple[str, str, str]:
        """What the weights depend on."""
        return (self.subject, self.prompt, self.target_new)

    @property
    def parts(self) -> tuple[str, str]:
        """The prompt's text before and after the subject."""
        before, _, after = self.prompt.partition(SLOT)
        return before, after

    @property
    def filled(self) -> str:
        """The prompt with the subject in it."""
        before, after = self.parts
        return f"{before}{self.subject}{after}"


@dataclass(frozen=True)
class Group:
    """The facts of one subject. They share one z and one key column (MEMIT-Merge, 2502.07322).

    MEMIT writes at the subject's last token, where facts of one subject have nearly equal keys and
    would overwrite each other.
    """

    subject: str
    facts: tuple[Fact, ...]

    @property
    def digest(self) -> str:
        """SHA-256 in hex of the facts' content."""
        data = json.dumps([f.content for f in self.facts], ensure_ascii=False).encode()
        return hashlib.sha256(data).hexdigest()


def group_facts(facts: Iterable[Fact]) -> list[Group]:
    """Facts by subject, in canonical order: the same set gives the same list, however it came."""
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[fact.subject].append(fact)
    return [
        Group(subject, tuple(sorted(by_subject[subject], key=lambda fact: fact.content)))
        for subject in sorted(by_subject)
    ]

"""Facts and groups: what is written, and which facts share one target vector."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from memit_core.errors import InvalidFact
from memit_core.joining import compose

SLOT = "{}"
LITERAL = "{{}}"
"""A `{}` that is no slot, as in Python's format strings, with which the official code fills."""
_SLOT = re.compile(r"(?<!\{)\{\}|\{\}(?!\})")


def parts_of(prompt: str) -> list[str]:
    """The text between the slots of a prompt, one piece more than it has slots."""
    return [part.replace(LITERAL, SLOT) for part in _SLOT.split(prompt)]


@dataclass(frozen=True)
class Fact:
    """`prompt` with its one `{}` replaced by `subject` shall continue as `target_new`.

    Texts are taken as they are. `target_new` follows the prompt as `memit_core.joining` says: after
    a space of its own, or one that is put where words need one.

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
        slots = len(parts_of(self.prompt)) - 1
        if slots != 1:
            raise InvalidFact(
                f"must contain exactly one {{}}, found {slots}; write {LITERAL} for a {{}} that is "
                "no slot",
                subject=self.subject,
                field="prompt",
                limit=1,
            )

    @property
    def content(self) -> tuple[str, str, str]:
        """What the weights depend on, composed."""
        return compose(self.subject), compose(self.prompt), compose(self.target_new)

    @property
    def parts(self) -> tuple[str, str]:
        """The prompt's text before and after the subject."""
        before, after = parts_of(self.prompt)
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
    """Facts by subject, in canonical order: the same set gives the same list, however it came.

    A subject is the same in any Unicode form, and with spaces around it.
    """
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[compose(fact.subject).strip()].append(fact)
    return [
        Group(subject, tuple(sorted(by_subject[subject], key=lambda fact: fact.content)))
        for subject in sorted(by_subject)
    ]

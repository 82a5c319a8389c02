"""What a model can do besides the facts: small packaged tests, answered by likelihood.

Every item has one right answer and some wrong ones. It is right when the right answer's mean
log-probability per token is above that of every wrong one; a tie is no success.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import fmean

from memit_core.eval.summary import Summary, half_width
from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent
from memit_core.target_scores import score_targets

ALL = "all"
KINDS = ("cloze", "arithmetic", "grammar")
SUMS = 100
"""Items of arithmetic."""
WRONG = 3
"""Wrong results of each."""
SOLVED = "2 + 3 = 5\n9 - 1 = 8\n14 + 23 = 37\n"
"""Stands before each: without examples small models do no better than by chance."""
NEAR = (-10, -2, -1, 1, 2, 10)
"""How far wrong results may be from the right one."""


@dataclass(frozen=True)
class Item:
    """A prompt with answers that may follow it."""

    kind: str
    prompt: str
    right: str
    wrong: tuple[str, ...]


def capability_items(seed: int = 0) -> tuple[Item, ...]:
    """The packaged cloze and grammar items, and arithmetic drawn by the seed."""
    file = resources.files("memit_core") / "data" / "capability.json"
    packaged: dict[str, list[list[str]]] = json.loads(file.read_text("utf-8"))
    written = [
        Item(kind, prompt, right, tuple(wrong))
        for kind, rows in packaged.items()
        for prompt, right, *wrong in rows
    ]
    return (*written, *_arithmetic(seed))


def _arithmetic(seed: int) -> Iterator[Item]:
    """Sums and differences from 0 to 18, then to 198; no prompt twice."""
    drawn = random.Random(seed)  # noqa: S311 - no secret
    known = set[str]()
    while len(known) < SUMS:
        most = 9 if 2 * len(known) < SUMS else 99
        a, b = drawn.randint(0, most), drawn.randint(0, most)
        if drawn.random() < 1 / 2:
            prompt, result = f"{a} + {b} =", a + b
        else:
            prompt, result = f"{max(a, b)} - {min(a, b)} =", abs(a - b)
        if prompt in known or prompt in SOLVED:
            continue
        known.add(prompt)
        near = drawn.sample([result + d for d in NEAR if result + d >= 0], WRONG)
        yield Item("arithmetic", f"{SOLVED}{prompt}", str(result), tuple(map(str, near)))


def right_answers(
    model: Model, items: Sequence[Item], progress: ProgressCallback = silent
) -> list[bool]:
    """Whether the model answers each item right.

    Raises:
        MemitError: an answer tokenises to nothing.
        Cancelled: raised by `progress`.
    """
    asked = [(item.prompt, answer) for item in items for answer in (item.right, *item.wrong)]
    scores = iter(score_targets(model, asked, progress))
    found = []
    for item in items:
        right = next(scores).p
        wrong = [next(scores).p for _ in item.wrong]
        found.append(right > max(wrong))
    return found


def accuracy(items: Sequence[Item], right: Sequence[float]) -> Summary:
    """Share of items answered right, of each kind and of all, with 95% intervals."""
    by_name: dict[str, list[float]] = {kind: [] for kind in (*KINDS, ALL)}
    for item, value in zip(items, right, strict=True):
        by_name[item.kind].append(float(value))
        by_name[ALL].append(float(value))
    return Summary(
        values={name: fmean(column) if column else None for name, column in by_name.items()},
        ci95={name: half_width(column) for name, column in by_name.items()},
    )


class CapabilityScores:
    """The items on the base, and on edited models; those are averaged item by item.

    Args:
        items: what is asked; nothing of none.
    """

    def __init__(self, base: Model, items: Sequence[Item], progress: ProgressCallback) -> None:
        self._items = items
        self._before = self.right(base, progress)

    @property
    def base(self) -> float | None:
        """Share of all items that the base answers right; None of no items."""
        return fmean(self._before) if self._before else None

    def right(self, model: Model, progress: ProgressCallback = silent) -> list[bool]:
        """See `right_answers`."""
        return right_answers(model, self._items, progress) if self._items else []

    def both(self, after: Sequence[Sequence[bool]]) -> tuple[Summary, Summary] | None:
        """Before and after; None where nothing was asked.

        Args:
            after: what `right` gave of each edited model.
        """
        if not any(after):
            return None
        means = [fmean(column) for column in zip(*after, strict=True)]
        return accuracy(self._items, self._before), accuracy(self._items, means)

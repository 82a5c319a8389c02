"""The whole measurement: score the base, write the records, score the edited model.

    editor = Editor(load_model())
    result = run(editor, COUNTERFACT, COUNTERFACT.read(Path("counterfact.json")))

Batches do not build upon each other unless they are asked to: each is written into the unedited
model and measured there, as the official code does with --num_edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from memit_core.edit import Editor
from memit_core.eval.costs import Stopwatch
from memit_core.eval.datasets import Dataset
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record, spread, without_conflicts
from memit_core.eval.summary import Summary, summarise
from memit_core.eval.yardstick import Aside, Yardstick, named
from memit_core.facts import Fact
from memit_core.methods import METHODS, Memit
from memit_core.methods.writer import writer_of
from memit_core.progress import ProgressCallback, silent
from memit_core.weights import Solved

GENERATIONS = 20
CHATS = 50


@dataclass(frozen=True)
class Options:
    """What to measure, besides the dataset's own prompts."""

    batch: int | None = None
    """Records written at once; None writes all of them."""
    asked: int | None = None
    """Records that are measured, spread evenly over those written; None asks all."""
    in_a_row: bool = False
    """Whether each batch is written upon those before, and all records are measured at the end."""
    method: str = Memit.name
    """By its name in `METHODS`."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method, by its names; the others are its own to choose."""
    generations: int = GENERATIONS
    """Records asked, from the first, of which free generations are made; 0 makes none."""
    chats: int = CHATS
    """Records asked, from the first, that are asked in chats too; 0 asks none."""
    capability: bool = False
    """Whether the items of `memit_core.eval.capability` are asked too."""
    held_out: str | None = None
    """Text for the perplexity; by default the end of the covariance corpus."""
    documents: Sequence[str] = ()
    """Texts that the words of the reference score are weighted by, besides the records' own."""
    seed: int = 0
    """Of free generations and of the Score's bootstrap."""


@dataclass(frozen=True)
class Measured:
    """One record before and after its batch was written."""

    record: Record
    batch: int
    before: Measures
    after: Measures


@dataclass(frozen=True)
class WrittenBy:
    """What wrote the facts."""

    name: str
    revision: int
    ordered: bool
    """Whether the order of the facts makes a difference to their weights."""
    options: Mapping[str, Any]
    """Those of the last batch."""


@dataclass(frozen=True)
class Result:
    """Everything measured, in the units of `Measures`."""

    measured: tuple[Measured, ...]
    facts: int
    """Records written; those measured may be fewer."""
    conflicts: int
    """Records left out because a later one contradicts them."""
    before: Summary
    after: Summary
    perplexity: tuple[float, float]
    """Before and after; with several batches, after is before times the ratio."""
    perplexity_ratio: float
    """The mean over batches."""
    kl: float
    """Mean over batches of the mean KL(edited || base) per token, in nats."""
    generated: int
    """Records with free generations."""
    method: WrittenBy
    chats: int = 0
    """Records that were asked in chats; 0 also where the model has no chat template."""
    capability: tuple[Summary, Summary] | None = None
    """Before and after, where it was asked for; after is the mean over batches."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: prepare, z, insert, evaluate, generate, chat, capability."""

    @property
    def seconds_per_fact(self) -> float:
        """Of writing alone, once all is prepared."""
        return (self.seconds.get("z", 0.0) + self.seconds["insert"]) / self.facts


def run(
    editor: Editor,
    dataset: Dataset,
    records: Sequence[Record],
    options: Options | None = None,
    progress: ProgressCallback = silent,
) -> Result:
    """Measure `records`, write them in batches, measure again.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed.
        NonFinite: a quantity is not finite; names the subjects where it can.
        MissingExtra: free generations are measured, and their packages are not installed.
        Cancelled: raised by `progress`.
    """
    chosen = options or Options()
    kept = without_conflicts(records)
    yardstick = Yardstick(editor, dataset, spread(kept, chosen.asked), chosen, progress)
    result = measured_by(yardstick, kept, chosen, progress)
    both = {
        name: yardstick.clock.seconds.get(name, 0.0) + result.seconds.get(name, 0.0)
        for name in {**yardstick.clock.seconds, **result.seconds}
    }
    return replace(result, conflicts=len(records) - len(kept), seconds=both)


def measured_by(
    yardstick: Yardstick,
    records: Sequence[Record],
    options: Options,
    progress: ProgressCallback = silent,
    *,
    clock: Stopwatch | None = None,
) -> Result:
    """Write `records` in batches, and measure those of them that the yardstick asks.

    Args:
        records: without conflicts.
        options: how they are written, and whether capability is measured again; what else is
            measured is the yardstick's.
        clock: takes the seconds.

    Raises:
        InvalidFact, NonFinite, Cancelled: as `run`.
    """
    size = options.batch or len(records)
    batches = [records[start : start + size] for start in range(0, len(records), size)]
    writes = _Writes(yardstick, options, progress, clock or Stopwatch())
    after = writes.in_a_row(batches) if options.in_a_row else writes.apart(batches)
    rows = [
        Measured(record, number, yardstick.base_measures[record.index], after[record.index])
        for number, batch in enumerate(batches)
        for record in yardstick.asked(batch)
    ]
    perplexity, asides = yardstick.base_text.perplexity, writes.asides
    ratio = fmean(aside.text.perplexity / perplexity for aside in asides)
    return Result(
        measured=tuple(rows),
        facts=len(records),
        conflicts=0,
        before=summarise([row.before for row in rows], seed=yardstick.seed),
        after=summarise([row.after for row in rows], seed=yardstick.seed),
        perplexity=(perplexity, perplexity * ratio),
        perplexity_ratio=ratio,
        kl=fmean(aside.text.kl for aside in asides),
        generated=yardstick.generations.count,
        method=writes.written_by,
        chats=yardstick.chats.count,
        capability=yardstick.capability.both([aside.capability for aside in asides]),
        seconds=writes.clock.seconds,
    )


class _Writes:
    """Batches written by one method, each measured where it belongs."""

    def __init__(
        self,
        yardstick: Yardstick,
        options: Options,
        progress: ProgressCallback,
        clock: Stopwatch,
    ) -> None:
        self._yardstick, self._given, self._progress = yardstick, options.given, progress
        self._capability = options.capability
        self._editor = yardstick.editor
        self._method = METHODS[options.method](self._editor)
        self.clock = clock
        self.asides: list[Aside] = []
        with self.clock.stage("prepare"):
            self._method.prepare(progress)
        self.written_by = self._told(self._method.options([], self._given))

    def apart(self, batches: Sequence[Sequence[Record]]) -> dict[int, Measures]:
        """Each batch on the base; its records, by index, on what it was written into."""
        several = len(batches) > 1
        inner = silent if several else self._progress
        measures: dict[int, Measures] = {}
        for number, batch in enumerate(batches):
            if several:
                self._progress("batches", number, len(batches))
            facts = facts_of(batch)
            with self.clock.stage("z"):
                self._method.unwritable(facts, inner)
            with self.clock.stage("insert"):
                options = self._method.options(facts, self._given)
                solved = self._method.solve(facts, options, inner)
            self.written_by = self._told(options)
            measures |= self._measure(solved, batch, inner)
        if several:
            self._progress("batches", len(batches), len(batches))
        return measures

    def in_a_row(self, batches: Sequence[Sequence[Record]]) -> dict[int, Measures]:
        """All batches into one model in turn; every record, by index, on what that ends as."""
        writer = writer_of(self._method, self._given)
        facts: list[Fact] = []
        with self.clock.stage("insert"):
            for number, batch in enumerate(batches):
                self._progress("batches", number, len(batches))
                facts += facts_of(batch)
                solved = writer.write(facts_of(batch), silent)
            self._progress("batches", len(batches), len(batches))
        self.written_by = self._told(self._method.options(facts, self._given))
        return self._measure(solved, [r for batch in batches for r in batch], self._progress)

    def _measure(
        self, solved: Solved, records: Sequence[Record], progress: ProgressCallback
    ) -> dict[int, Measures]:
        model, report = self._editor.model_with(solved), named(progress, "after")
        asked = self._yardstick.asked(records)
        measures = self._yardstick.measure(model, asked, self.clock, report)
        aside = self._yardstick.aside(model, self.clock, report, capability=self._capability)
        self.asides.append(aside)
        return {r.index: measure for r, measure in zip(asked, measures, strict=True)}

    def _told(self, options: Mapping[str, Any]) -> WrittenBy:
        method = self._method
        return WrittenBy(method.name, method.revision, method.ordered, options)


def facts_of(records: Sequence[Record]) -> list[Fact]:
    """What is written for these records, each fact once."""
    return list(dict.fromkeys(record.request for record in records))

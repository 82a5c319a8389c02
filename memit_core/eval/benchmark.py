"""The whole measurement: score the base, write the records, score the edited model.

    editor = Editor(load_model())
    result = run(editor, COUNTERFACT, COUNTERFACT.read(Path("counterfact.json")))

Batches do not build upon each other unless they are asked to: each is written into the unedited
model and measured there, as the official code does with --num_edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from memit_core.edit import Editor
from memit_core.eval.capability import CapabilityScores, capability_items
from memit_core.eval.chat import ChatScores
from memit_core.eval.costs import Stopwatch
from memit_core.eval.datasets import Dataset
from memit_core.eval.free_generation import GenerationScores
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record, without_conflicts
from memit_core.eval.summary import Summary, summarise
from memit_core.evaluate import CONTROL_CHARS
from memit_core.facts import Fact
from memit_core.held_out import HeldOutText, TextScore
from memit_core.methods import METHODS, Memit
from memit_core.methods.writer import writer_of
from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent

GENERATIONS = 20
CHATS = 50


@dataclass(frozen=True)
class Options:
    """What to measure, besides the dataset's own prompts."""

    batch: int | None = None
    """Records written at once; None writes all of them."""
    in_a_row: bool = False
    """Whether each batch is written upon those before, and all records are measured at the end."""
    method: str = Memit.name
    """By its name in `METHODS`."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method, by its names; the others are its own to choose."""
    generations: int = GENERATIONS
    """Records, from the first, of which free generations are made; 0 makes none."""
    chats: int = CHATS
    """Records, from the first, that are asked in chats; 0 asks none."""
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
        return (self.seconds.get("z", 0.0) + self.seconds["insert"]) / len(self.measured)


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
    size = chosen.batch or len(kept)
    batches = [kept[start : start + size] for start in range(0, len(kept), size)]
    bench = _Bench(editor, dataset, kept, chosen, progress)
    before = bench.measure(editor.base, kept, "before")
    after, texts = bench.in_a_row(batches) if chosen.in_a_row else bench.written(batches)
    numbers = [number for number, batch in enumerate(batches) for _ in batch]
    rows = zip(kept, numbers, before, after, strict=True)
    ratio = fmean(text.perplexity / bench.base_text.perplexity for text in texts)
    return Result(
        measured=tuple(Measured(*row) for row in rows),
        conflicts=len(records) - len(kept),
        before=summarise(before, seed=chosen.seed),
        after=summarise(after, seed=chosen.seed),
        perplexity=(bench.base_text.perplexity, bench.base_text.perplexity * ratio),
        perplexity_ratio=ratio,
        kl=fmean(text.kl for text in texts),
        generated=bench.generations.count,
        method=bench.written_by,
        chats=bench.chats.count,
        capability=bench.capability.both,
        seconds=bench.clock.seconds,
    )


class _Bench:
    """What all batches of one measurement share."""

    def __init__(
        self,
        editor: Editor,
        dataset: Dataset,
        records: Sequence[Record],
        options: Options,
        progress: ProgressCallback,
    ) -> None:
        self.editor = editor
        self.dataset = dataset
        self.progress = progress
        self.clock = Stopwatch()
        self.method = METHODS[options.method](editor)
        self.given = options.given
        self.written_by = self._told(self.method.options([], self.given))
        self.generations = GenerationScores(
            records[: options.generations], options.documents, options.seed
        )
        self.chats = ChatScores(records[: options.chats], editor.loaded.tokenizer)
        with self.clock.stage("evaluate"):
            base = editor.base
            self.text = HeldOutText(base, options.held_out or editor.corpus[-CONTROL_CHARS:])
            self.base_text = self.text.score(base)
        items = capability_items() if options.capability else ()
        with self.clock.stage("capability"):
            self.capability = CapabilityScores(base, items, _named(progress, "before"))

    def measure(
        self,
        model: Model,
        records: Sequence[Record],
        when: str,
        progress: ProgressCallback | None = None,
    ) -> list[Measures]:
        """Measures of `records` on the weights of `model`."""
        report = _named(progress or self.progress, when)
        with self.clock.stage("evaluate"):
            measures = self.dataset.score(model, records, report)
        with self.clock.stage("generate"):
            measures = self.generations.add(model, records, measures, report)
        with self.clock.stage("chat"):
            return self.chats.add(model, records, measures, report)

    def written(
        self, batches: Sequence[Sequence[Record]]
    ) -> tuple[list[Measures], list[TextScore]]:
        """Every record on the weights that its batch was written into; the text on each of them."""
        self._prepare()
        several = len(batches) > 1
        inner = silent if several else self.progress
        measures, texts = [], []
        for number, batch in enumerate(batches):
            if several:
                self.progress("batches", number, len(batches))
            facts = facts_of(batch)
            with self.clock.stage("z"):
                self.method.unwritable(facts, inner)
            with self.clock.stage("insert"):
                options = self.method.options(facts, self.given)
                model = self.editor.model_with(self.method.solve(facts, options, inner))
            self.written_by = self._told(options)
            measures += self.measure(model, batch, "after", inner)
            texts.append(self._aside(model, inner))
        if several:
            self.progress("batches", len(batches), len(batches))
        return measures, texts

    def in_a_row(
        self, batches: Sequence[Sequence[Record]]
    ) -> tuple[list[Measures], list[TextScore]]:
        """Every record, and the text, on the weights that all batches were written into in turn."""
        self._prepare()
        writer = writer_of(self.method, self.given)
        facts: list[Fact] = []
        with self.clock.stage("insert"):
            for number, batch in enumerate(batches):
                self.progress("batches", number, len(batches))
                facts += facts_of(batch)
                solved = writer.write(facts_of(batch), silent)
            self.progress("batches", len(batches), len(batches))
            model = self.editor.model_with(solved)
        self.written_by = self._told(self.method.options(facts, self.given))
        measures = self.measure(model, [one for batch in batches for one in batch], "after")
        return measures, [self._aside(model, self.progress)]

    def _aside(self, model: Model, progress: ProgressCallback) -> TextScore:
        """Measure what no record asks for: capability, and the text, which is returned."""
        with self.clock.stage("capability"):
            self.capability.add(model, _named(progress, "after"))
        with self.clock.stage("evaluate"):
            return self.text.score(model)

    def _prepare(self) -> None:
        with self.clock.stage("prepare"):
            self.method.prepare(self.progress)

    def _told(self, options: Mapping[str, Any]) -> WrittenBy:
        method = self.method
        return WrittenBy(method.name, method.revision, method.ordered, options)


def facts_of(records: Sequence[Record]) -> list[Fact]:
    """What is written for these records, each fact once."""
    return list(dict.fromkeys(record.request for record in records))


def _named(progress: ProgressCallback, when: str) -> ProgressCallback:
    """The same, with stages reported as "evaluate before" and so on."""

    def report(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        progress(f"{stage} {when}", done, total, loss=loss)

    return report

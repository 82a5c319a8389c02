"""What is asked of a model, and what the unedited one answers: once for any number of writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_core.edit import Editor
from memit_core.eval.capability import CapabilityScores, capability_items
from memit_core.eval.chat import ChatScores
from memit_core.eval.costs import Stopwatch
from memit_core.eval.datasets import Dataset
from memit_core.eval.free_generation import GenerationScores
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record
from memit_core.evaluate import CONTROL_CHARS
from memit_core.held_out import HeldOutText, TextScore
from memit_core.model import Model
from memit_core.progress import ProgressCallback

if TYPE_CHECKING:
    from memit_core.eval.benchmark import Options


@dataclass(frozen=True)
class Aside:
    """What no record asks for, on one edited model."""

    text: TextScore
    capability: list[bool]


class Yardstick:
    """Measures the base when it is made, and then any edited model in the same way.

    Args:
        records: those that are asked.
        options: what is measured; how facts are written is of no account here.

    Raises:
        MissingExtra: free generations are measured, and their packages are not installed.
        Cancelled: raised by `progress`.
    """

    def __init__(
        self,
        editor: Editor,
        dataset: Dataset,
        records: Sequence[Record],
        options: Options,
        progress: ProgressCallback,
    ) -> None:
        self.editor, self.seed = editor, options.seed
        self._dataset = dataset
        self.clock = Stopwatch()
        self.generations = GenerationScores(
            records[: options.generations], options.documents, options.seed
        )
        self.chats = ChatScores(records[: options.chats], editor.loaded.tokenizer)
        base, report = editor.base, named(progress, "before")
        with self.clock.stage("evaluate"):
            self._text = HeldOutText(base, options.held_out or editor.corpus[-CONTROL_CHARS:])
            self.base_text = self._text.score(base)
        items = capability_items() if options.capability else ()
        with self.clock.stage("capability"):
            self.capability = CapabilityScores(base, items, report)
        measures = self.measure(base, records, self.clock, report)
        self.base_measures = {r.index: m for r, m in zip(records, measures, strict=True)}

    def asked(self, records: Sequence[Record]) -> list[Record]:
        """Those of `records` that this yardstick asks."""
        return [record for record in records if record.index in self.base_measures]

    def measure(
        self,
        model: Model,
        records: Sequence[Record],
        clock: Stopwatch,
        progress: ProgressCallback,
    ) -> list[Measures]:
        """Measures of `records` on the weights of `model`; the time goes to `clock`."""
        with clock.stage("evaluate"):
            measures = self._dataset.score(model, records, progress)
        with clock.stage("generate"):
            measures = self.generations.add(model, records, measures, progress)
        with clock.stage("chat"):
            return self.chats.add(model, records, measures, progress)

    def aside(
        self, model: Model, clock: Stopwatch, progress: ProgressCallback, *, capability: bool
    ) -> Aside:
        """The held-out text on the weights of `model`, and capability where it is wanted."""
        with clock.stage("capability"):
            right = self.capability.right(model, progress) if capability else []
        with clock.stage("evaluate"):
            return Aside(self._text.score(model), right)


def named(progress: ProgressCallback, when: str) -> ProgressCallback:
    """The same, with stages reported as "evaluate before" and so on."""

    def report(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        progress(f"{stage} {when}", done, total, loss=loss)

    return report

"""The datasets that edits are measured on, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memit_core.eval.counterfact import Question, counterfact_questions, measure_counterfact
from memit_core.eval.counterfact_file import counterfact_record
from memit_core.eval.dataset_file import DatasetError, RawRecord, read_json_records
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record
from memit_core.eval.references import NO_REFERENCES, References
from memit_core.eval.zsre import measure_zsre, zsre_questions
from memit_core.eval.zsre_file import zsre_record
from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent
from memit_core.target_scores import TargetScore, score_targets


@dataclass(frozen=True)
class Dataset:
    """How a dataset's records are read, what is asked of each, and what the answers come to."""

    name: str
    record: Callable[[RawRecord, References], Record]
    questions: Callable[[Record], list[Question]]
    measure: Callable[[Record, Sequence[TargetScore]], Measures]

    def read(
        self,
        file: Path,
        *,
        skip: int = 0,
        limit: int | None = None,
        references: References = NO_REFERENCES,
    ) -> list[Record]:
        """At most `limit` records after the first `skip`.

        Raises:
            DatasetError: names the file, the record's index in it and the field.
        """
        values = read_json_records(file)
        end = None if limit is None else skip + limit
        chosen = range(len(values))[skip:end]
        if not chosen:
            raise DatasetError(f"{file}: no records are left after skipping {skip}")
        return [self.record(RawRecord(values[i], file, i), references) for i in chosen]

    def score(
        self, model: Model, records: Sequence[Record], progress: ProgressCallback = silent
    ) -> list[Measures]:
        """Ask everything of every record on the weights of `model`, one entry a record.

        Raises:
            MemitError: a target tokenises to nothing.
            Cancelled: raised by `progress`.
        """
        asked = [self.questions(record) for record in records]
        questions: list[Question] = []
        own = set()  # the first of each record is its own prompt with the new target
        for of_record in asked:
            own.add(len(questions))
            questions += of_record
        scores = iter(score_targets(model, questions, progress, ends=own))
        return [
            self.measure(record, [next(scores) for _ in of_record])
            for record, of_record in zip(records, asked, strict=True)
        ]


COUNTERFACT = Dataset("counterfact", counterfact_record, counterfact_questions, measure_counterfact)
ZSRE = Dataset("zsre", zsre_record, zsre_questions, measure_zsre)

"""GE and RS of records: free generations from their prompts, before and after alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from memit_core.eval.extras import need
from memit_core.eval.generation import free_texts
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record
from memit_core.eval.text_scores import ReferenceScore, generation_entropy
from memit_core.model import Model
from memit_core.progress import ProgressCallback


class GenerationScores:
    """Generation entropy and reference score of those of `records` that have generation prompts.

    Args:
        documents: texts that words are weighted by, besides the records' own reference texts.

    Raises:
        MissingExtra: there is something to generate, and nltk or scikit-learn is not installed.
    """

    def __init__(self, records: Sequence[Record], documents: Sequence[str], seed: int) -> None:
        self._seed = seed
        generating = [record for record in records if record.generation_prompts]
        self._chosen = {record.index for record in generating}
        texts = [text for record in generating for text in record.reference_texts]
        if generating:
            need("nltk", "generation entropy")
        known = set(documents)
        own = [text for text in texts if text not in known]
        self._similarity = ReferenceScore([*documents, *own]) if texts else None

    @property
    def count(self) -> int:
        """Records of which free generations are made."""
        return len(self._chosen)

    def add(
        self,
        model: Model,
        records: Sequence[Record],
        measures: Sequence[Measures],
        progress: ProgressCallback,
    ) -> list[Measures]:
        """The measures with GE and RS where the record is one of those chosen.

        A prompt that a record has several times is generated from as often. Texts are measured in
        Unicode's form NFKD, as in the official code; reference texts are taken as they are.
        """
        prompts = [p for r in records if r.index in self._chosen for p in r.generation_prompts]
        if not prompts:
            return list(measures)
        texts = free_texts(model, prompts, seed=self._seed, progress=progress)
        made = iter(unicodedata.normalize("NFKD", text) for text in texts)
        added = []
        for record, measure in zip(records, measures, strict=True):
            if record.index in self._chosen:
                own = [next(made) for _ in record.generation_prompts]
                measure = replace(
                    measure,
                    generation_entropy=generation_entropy(own),
                    reference_score=self._reference_score(record, own),
                )
            added.append(measure)
        return added

    def _reference_score(self, record: Record, texts: Sequence[str]) -> float | None:
        if self._similarity is None or not record.reference_texts:
            return None
        return self._similarity(texts, record.reference_texts)

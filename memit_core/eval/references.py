"""Reference texts of CounterFact: Wikipedia snippets about things that share the new object.

The file has the form of the original attribute_snippets.json: a list of {relation_id, target_id,
samples: [{text, ...}, ...]}.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from memit_core.eval.dataset_file import RawRecord, read_json_records

References = Mapping[tuple[str, str] | None, tuple[str, ...]]
"""Texts by (relation id, id of the new object)."""

NO_REFERENCES: References = {}


def read_references(file: Path) -> References:
    """All texts of the file.

    Raises:
        DatasetError: the file cannot be read, or names the entry and field that are wrong.
    """
    found: dict[tuple[str, str] | None, list[str]] = defaultdict(list)
    for index, value in enumerate(read_json_records(file)):
        raw = RawRecord(value, file, index)
        key = (raw.text("relation_id"), raw.text("target_id"))
        found[key] += [
            RawRecord(sample, file, index).text("text") for sample in raw.objects("samples")
        ]
    return {key: tuple(texts) for key, texts in found.items()}

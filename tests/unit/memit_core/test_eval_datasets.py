"""Files of records: every form that is read, and what is said of a bad one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from memit_core.eval.dataset_file import DatasetError
from memit_core.eval.datasets import COUNTERFACT, ZSRE
from memit_core.eval.references import read_references
from memit_core.facts import Fact

ORIGINAL: dict[str, Any] = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["She spoke. Danielle Darrieux speaks", "Danielle Darrieux, a native"],
    "neighborhood_prompts": ["Michel Rocard speaks", "Octave Mirbeau speaks"],
    "attribute_prompts": [],
    "generation_prompts": ["Danielle Darrieux was born in"],
}
SHORT: dict[str, Any] = {
    "case_id": 4,
    "prompt": "What is the twin city of Lyon? Lyon's is",
    "target_new": "Manila",
    "subject": "Lyon",
    "ground_truth": "Beirut",
    "rephrase_prompt": "Lyon is twinned with",
    "locality_prompt": "The twin city of Trieste is",
    "locality_ground_truth": "Graz",
}
QUESTION: dict[str, Any] = {
    "subject": "UniFirst",
    "src": "What is made by UniFirst?",
    "pred": "uniform",
    "rephrase": "What does UniFirst make?",
    "alt": "aircraft",
    "answers": ["uniform", "uniforms"],
    "loc": "nq question: who said it",
    "loc_ans": "Walter",
}


def write(folder: Path, *records: Any, lines: bool = False) -> Path:
    file = folder / "records.json"
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    file.write_text(text, "utf-8")
    return file


def changed(record: dict[str, Any], path: str, value: Any = None) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced, or removed if None."""
    copied = copy.deepcopy(record)
    *parents, last = path.split(".")
    inner: Any = copied
    for part in parents:
        inner = inner[part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return copied


@pytest.mark.parametrize("lines", [False, True])
def test_the_original_form(tmp_path: Path, lines: bool) -> None:
    (record,) = COUNTERFACT.read(write(tmp_path, ORIGINAL, lines=lines))
    assert record.fact == Fact(
        "Danielle Darrieux", "The mother tongue of {} is", "English", "French"
    )
    assert record.paraphrases == tuple(ORIGINAL["paraphrase_prompts"])
    assert record.neighbors == (
        ("Michel Rocard speaks", "French"),
        ("Octave Mirbeau speaks", "French"),
    )
    assert record.generation_prompts == ("Danielle Darrieux was born in",)
    assert record.reference_texts == ()


def test_the_short_form_takes_the_first_occurrence_of_the_subject(tmp_path: Path) -> None:
    (record,) = COUNTERFACT.read(write(tmp_path, SHORT))
    assert record.fact.prompt == "What is the twin city of {}? Lyon's is"
    assert record.fact.filled == SHORT["prompt"]
    assert (record.fact.target_new, record.fact.target_true) == ("Manila", "Beirut")
    assert record.paraphrases == ("Lyon is twinned with",)
    # a neighbour must keep its own answer, whatever the subject's was
    assert COUNTERFACT.questions(record)[-2:] == [
        ("The twin city of Trieste is", "Manila"),
        ("The twin city of Trieste is", "Graz"),
    ]


def test_zsre_writes_the_true_answer_and_asks_as_the_official_code(tmp_path: Path) -> None:
    (record,) = ZSRE.read(write(tmp_path, QUESTION))
    assert record.fact == Fact("UniFirst", "What is made by {}?", "uniform")
    assert record.paraphrases == ("What does UniFirst make?",)
    assert record.neighbors == (("nq question: who said it?", "Walter"),)


def test_skip_and_limit_keep_the_index_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, *[SHORT] * 5)
    assert [r.index for r in COUNTERFACT.read(file, skip=1, limit=3)] == [1, 2, 3]
    assert [r.index for r in COUNTERFACT.read(file, skip=3, limit=9)] == [3, 4]
    with pytest.raises(DatasetError, match="no records are left after skipping 5"):
        COUNTERFACT.read(file, skip=5)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (changed(ORIGINAL, "requested_rewrite.target_true.str"), "target_true.str is missing"),
        (changed(ORIGINAL, "requested_rewrite.target_new", "x"), "target_new.str is missing"),
        (changed(ORIGINAL, "requested_rewrite.subject", " "), "requested_rewrite.subject is empty"),
        (changed(ORIGINAL, "requested_rewrite.prompt", "no slot"), "prompt must contain exactly"),
        (changed(ORIGINAL, "requested_rewrite.prompt", 3), "prompt must be a text, is a number"),
        (changed(ORIGINAL, "neighborhood_prompts"), "neighborhood_prompts is missing"),
        (changed(ORIGINAL, "paraphrase_prompts", "one"), "paraphrase_prompts must be a list"),
        (changed(ORIGINAL, "paraphrase_prompts", ["a", 1]), r"paraphrase_prompts\[1\] must be"),
        (changed(SHORT, "prompt", "Of Paris"), "prompt does not contain the subject 'Lyon'"),
        (changed(SHORT, "ground_truth"), "ground_truth is missing"),
        (["a list"], "must be a JSON object, is a list"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, record: Any, says: str) -> None:
    file = write(tmp_path, SHORT, record)
    with pytest.raises(DatasetError, match=rf"records\.json: record 1: .*{says}"):
        COUNTERFACT.read(file)
    assert len(COUNTERFACT.read(file, limit=1)) == 1


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (changed(QUESTION, "answers", []), "answers is empty"),
        (changed(QUESTION, "src", "What is made by it?"), "src does not contain the subject"),
        (changed(QUESTION, "loc_ans"), "loc_ans is missing"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, record: Any, says: str) -> None:
    with pytest.raises(DatasetError, match=f"record 0: {says}"):
        ZSRE.read(write(tmp_path, record))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[1, ", "not JSON .*line 1"),
        (b'{"a": 1}\n{oops}', "record 1: not JSON .*line 2"),
        (b" \n", "holds no records"),
        (b"[]", "holds no records"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "records.json"
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"records\.json: {says}"):
        COUNTERFACT.read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json: No such file"):
        COUNTERFACT.read(tmp_path / "none.json")


def test_reference_texts_by_relation_and_new_object(tmp_path: Path) -> None:
    snippets = tmp_path / "attribute_snippets.json"
    entries = [
        {"relation_id": "P103", "target_id": "Q1860", "samples": [{"name": "A", "text": "one"}]},
        {"relation_id": "P103", "target_id": "Q150", "samples": [{"name": "B", "text": "other"}]},
        {"relation_id": "P103", "target_id": "Q1860", "samples": [{"text": "two"}]},
    ]
    snippets.write_text(json.dumps(entries))
    references = read_references(snippets)
    own = {**ORIGINAL, "reference_texts": ["its own"]}
    records = COUNTERFACT.read(write(tmp_path, ORIGINAL, own, SHORT), references=references)
    assert [r.reference_texts for r in records] == [("one", "two"), ("its own",), ()]


def test_a_bad_reference_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, {"relation_id": "P1", "target_id": "Q1", "samples": [{"name": "A"}]})
    with pytest.raises(DatasetError, match="record 0: text is missing"):
        read_references(file)

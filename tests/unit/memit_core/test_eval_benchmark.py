"""The whole measurement on a tiny model: before, after, batches and what they are measured on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memit_core.edit import Editor
from memit_core.eval.benchmark import Options, Result, run
from memit_core.eval.chart import draw_chart
from memit_core.eval.costs import peak_memory
from memit_core.eval.datasets import COUNTERFACT, ZSRE
from memit_core.eval.records import Record
from memit_core.eval.report import as_json
from memit_core.evaluate import evaluate_facts
from memit_core.facts import Fact, group_facts
from memit_core.methods import METHODS
from memit_core.methods.mend.trainer import Options as Training
from memit_core.methods.mend.trainer import train
from memit_core.methods.writer import writer_of
from memit_core.progress import silent
from tests.tiny_models import TEXT
from tests.unit.memit_core.examples import FACTS

RECORDS = tuple(
    Record(
        index=i,
        fact=replace(fact, target_true="Vienna"),
        paraphrases=(f"It is said: {fact.filled}", f"Yes, {fact.filled}"),
        neighbors=(("The capital of France is", "Vienna"), ("The river is the", "Vienna")),
        generation_prompts=(f"{fact.subject} is",) * 2,
        reference_texts=("The river runs through the city", "He had seen a fox"),
    )
    for i, fact in enumerate(FACTS)
)


@pytest.fixture(scope="module", autouse=True)
def _network(any_editor: Editor, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For MEND; trained too little to matter."""
    folder = tmp_path_factory.mktemp("mend")
    options = Training(steps=1, rank=4)
    any_editor.network = train(any_editor.loaded, FACTS, TEXT, folder, options).file


@pytest.fixture(scope="module")
def result(any_editor: Editor) -> Result:
    return run(any_editor, COUNTERFACT, RECORDS, Options(generations=2, held_out=TEXT))


def test_some_are_asked_and_all_are_written(any_editor: Editor, result: Result) -> None:
    few = run(any_editor, COUNTERFACT, RECORDS, Options(asked=2, generations=1, held_out=TEXT))
    assert few.facts == result.facts == len(RECORDS)
    whole = {one.record.index: one for one in result.measured}
    assert [one.record.index for one in few.measured] == [0, len(RECORDS) // 2]
    for one in few.measured:
        same = whole[one.record.index]
        magnitude = same.after.efficacy_magnitude
        assert one.after.efficacy_magnitude == pytest.approx(magnitude, rel=1e-4, abs=1e-7)
    assert few.perplexity_ratio == pytest.approx(result.perplexity_ratio)
    assert few.generated == 1


def test_before_and_after_agree_with_the_scores_of_edits(
    any_editor: Editor, result: Result
) -> None:
    facts = [
        replace(
            record.fact,
            paraphrase_prompts=record.paraphrases,
            neighborhood_prompts=tuple(prompt for prompt, _ in record.neighbors),
        )
        for record in RECORDS
    ]
    solved = any_editor.solve(group_facts(FACTS))
    models = (any_editor.base, any_editor.model_with(solved))
    for when, model in zip(("before", "after"), models, strict=True):
        scores = evaluate_facts(model, facts)
        for one, score in zip(result.measured, scores, strict=True):
            measures = getattr(one, when)
            assert measures.efficacy == score.efficacy
            assert measures.paraphrase == score.paraphrase
            assert measures.neighborhood == score.specificity
            assert measures.generation_success == score.success
            assert score.p_true is not None
            margin = score.p_new - score.p_true
            assert measures.efficacy_magnitude == pytest.approx(margin, rel=1e-3, abs=1e-7)


def test_the_edit_shows(result: Result) -> None:
    assert all(
        one.before.efficacy_magnitude != one.after.efficacy_magnitude for one in result.measured
    )
    assert result.kl > 0
    assert result.perplexity[1] / result.perplexity[0] == pytest.approx(result.perplexity_ratio)
    stages = {"prepare", "z", "insert", "evaluate", "generate", "chat", "capability"}
    assert stages == set(result.seconds)


def test_texts_are_generated_of_the_first_records_alone(result: Result) -> None:
    assert result.generated == 2
    entropies = [one.after.generation_entropy for one in result.measured]
    assert [entropy is None for entropy in entropies] == [False, False, True, True, True]
    assert [one.after.reference_score is None for one in result.measured] == [False] * 2 + [
        True
    ] * 3
    assert result.after.values["generation_entropy"] != result.before.values["generation_entropy"]


def test_batches_are_each_written_into_the_unedited_model(any_editor: Editor) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        told.append((stage, done, total))

    options = Options(batch=2, generations=0)
    split = run(any_editor, COUNTERFACT, RECORDS, options, progress)
    assert [one.batch for one in split.measured] == [0, 0, 1, 1, 2]
    assert [one[1:] for one in told if one[0] == "batches"] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for start in (0, 2, 4):
        alone = run(any_editor, COUNTERFACT, RECORDS[start : start + 2], options)
        for one, other in zip(split.measured[start : start + 2], alone.measured, strict=True):
            assert one.after.efficacy_magnitude == pytest.approx(
                other.after.efficacy_magnitude, rel=1e-3, abs=1e-7
            )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_and_is_named(any_editor: Editor, method: str) -> None:
    result = run(any_editor, COUNTERFACT, RECORDS[:2], Options(generations=0, method=method))
    written_by = METHODS[method](any_editor)
    facts = [one.request for one in RECORDS[:2]]
    assert (result.method.name, result.method.revision) == (method, written_by.revision)
    assert result.method.ordered == written_by.ordered
    assert result.method.options == written_by.options(facts, {})
    assert result.kl > 0
    assert 0 < result.seconds_per_fact < sum(result.seconds.values())
    report = as_json(result, any_editor)
    assert json.loads(json.dumps(report["method"], allow_nan=False))["name"] == method


@pytest.mark.parametrize("method", METHODS)
def test_in_a_row_all_are_measured_on_the_last_weights(any_editor: Editor, method: str) -> None:
    options = Options(batch=2, generations=0, method=method, in_a_row=True)
    result = run(any_editor, COUNTERFACT, RECORDS, options)
    assert [one.batch for one in result.measured] == [0, 0, 1, 1, 2]
    writer = writer_of(METHODS[method](any_editor), {})
    for start in (0, 2, 4):
        batch = [one.request for one in RECORDS[start : start + 2]]
        solved = writer.write(batch, silent)
    expected = COUNTERFACT.score(any_editor.model_with(solved), RECORDS, silent)
    for one, theirs in zip(result.measured, expected, strict=True):
        assert one.after.efficacy_magnitude == theirs.efficacy_magnitude


def test_memit_in_a_row_is_memit_at_once(any_editor: Editor) -> None:
    """It solves all facts so far anew, from the base."""
    at_once = run(any_editor, COUNTERFACT, RECORDS, Options(generations=0))
    in_turn = run(any_editor, COUNTERFACT, RECORDS, Options(batch=2, generations=0, in_a_row=True))
    assert in_turn.after == at_once.after
    assert in_turn.perplexity_ratio == at_once.perplexity_ratio


def test_contradicting_and_repeated_records_are_written_once(any_editor: Editor) -> None:
    first, repeated = RECORDS[3], replace(RECORDS[3], index=9)
    contradicted = replace(first, index=8, fact=replace(first.fact, target_new="flute"))
    records = [contradicted, first, repeated]
    result = run(any_editor, COUNTERFACT, records, Options(generations=0))
    assert result.conflicts == 1
    assert [one.record.index for one in result.measured] == [3, 9]
    alone = run(any_editor, COUNTERFACT, [first], Options(generations=0))
    assert result.measured[0].after == result.measured[1].after
    assert result.measured[0].after.efficacy_magnitude == pytest.approx(
        alone.measured[0].after.efficacy_magnitude, rel=1e-3
    )


def test_zsre_has_no_magnitudes(any_editor: Editor) -> None:
    record = Record(
        0, Fact("Lisbon", "Who was born in {}?", "Anna Keller"), ("Who?",), (("q?", "a"),)
    )
    result = run(any_editor, ZSRE, [record])
    assert result.after.values["efficacy_magnitude"] is None
    assert result.after.values["efficacy"] is not None
    assert result.generated == 0


def test_the_report_is_json_in_percent(any_editor: Editor, result: Result) -> None:
    report = json.loads(json.dumps(as_json(result, any_editor, batch="all"), allow_nan=False))
    assert report["unit"] == "percent"
    assert report["facts"] == len(RECORDS)
    assert report["batch"] == "all"
    efficacy = result.after.values["efficacy"]
    assert efficacy is not None
    assert report["after"]["efficacy"] == pytest.approx(100 * efficacy)
    assert set(report["after"]) == set(report["after"]["ci95"]) | {"ci95"}
    assert report["hparams"] == any_editor.hparams.as_dict()
    assert report["per_record"][4]["subject"] == FACTS[4].subject
    own = result.measured[4].after.paraphrase_magnitude
    assert own is not None
    assert report["per_record"][4]["after"]["paraphrase_magnitude"] == pytest.approx(100 * own)


def test_the_chart_is_a_png_of_what_both_give(tmp_path: Path, result: Result) -> None:
    file = tmp_path / "chart.png"
    draw_chart(file, "a title", result.before, result.after)
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    few = replace(result.after, values={**result.after.values, "reference_score": None})
    draw_chart(tmp_path / "narrow.png", "a title", result.before, few)
    width = [int.from_bytes(f.read_bytes()[16:20]) for f in (file, tmp_path / "narrow.png")]
    assert width[1] < width[0]


def test_peak_memory_is_in_bytes() -> None:
    peak = peak_memory(torch.device("cpu"))
    assert peak is not None
    assert 50e6 < peak < 500e9

"""Each measure against numbers worked out by hand from its definition."""

from __future__ import annotations

import math

import pytest

from memit_core.eval.counterfact import counterfact_questions, measure_counterfact
from memit_core.eval.datasets import COUNTERFACT, ZSRE
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record, without_conflicts
from memit_core.eval.summary import harmonic_mean, summarise
from memit_core.eval.zsre import measure_zsre, zsre_questions
from memit_core.facts import Fact
from memit_core.target_scores import TargetScore

FACT = Fact("Lyon", "{} is in", "Rome", "France")
RECORD = Record(
    index=0,
    fact=FACT,
    paraphrases=("Where is Lyon? In", "Lyon lies in"),
    neighbors=(("Paris is in", "France"), ("Nice is in", "France"), ("Lille is in", "France")),
)


def p(value: float, *, greedy: bool = False) -> TargetScore:
    return TargetScore((math.log(value),), (greedy,))


def test_counterfact_asks_each_prompt_for_new_then_true() -> None:
    asked = counterfact_questions(RECORD)
    assert asked[:3] == [
        ("Lyon is in", "Rome"),
        ("Lyon is in", "France"),
        ("Where is Lyon? In", "Rome"),
    ]
    assert asked[-1] == ("Lille is in", "France")
    assert len(asked) == 2 * (1 + 2 + 3)


def test_counterfact_by_hand() -> None:
    scores = [
        *(p(0.6, greedy=True), p(0.1)),  # own prompt: won by 0.5
        *(p(0.3), p(0.2)),  # paraphrases: won by 0.1,
        *(p(0.1, greedy=True), p(0.4)),  # lost by 0.3
        *(p(0.1), p(0.2)),  # neighbours: kept by 0.1,
        *(p(0.5), p(0.1)),  # lost by 0.4,
        *(p(0.2), p(0.2)),  # a tie is not kept
    ]
    measured = measure_counterfact(RECORD, scores)
    assert measured.efficacy == 1
    assert measured.paraphrase == pytest.approx(1 / 2)
    assert measured.neighborhood == pytest.approx(1 / 3)
    assert measured.efficacy_magnitude == pytest.approx(0.5)
    assert measured.paraphrase_magnitude == pytest.approx(-0.1)
    assert measured.neighborhood_magnitude == pytest.approx((0.1 - 0.4 + 0) / 3)
    assert measured.generation_success == 1
    assert measured.paraphrase_generation_success == pytest.approx(1 / 2)
    assert measured.generation_entropy is None


def test_a_tie_is_no_efficacy() -> None:
    record = Record(0, FACT, (), ())
    measured = measure_counterfact(record, [p(0.2), p(0.2)])
    assert measured.efficacy == 0
    assert measured.paraphrase is None
    assert measured.neighborhood is None


def test_a_long_target_counts_by_its_mean_token() -> None:
    record = Record(0, FACT, (), ())
    # by products the new target would lose: 0.4 · 0.4 = 0.16 < 0.3; by means of logs it wins
    new = TargetScore((math.log(0.4), math.log(0.4)), (False, False))
    measured = measure_counterfact(record, [new, p(0.3)])
    assert measured.efficacy == 1
    assert measured.efficacy_magnitude == pytest.approx(0.1)


def test_zsre_by_hand() -> None:
    record = Record(0, Fact("Lyon", "Where is {}?", "Rome"), ("Lyon is where?",), (("who?", "me"),))
    assert zsre_questions(record) == [
        ("Where is Lyon?", "Rome"),
        ("Lyon is where?", "Rome"),
        ("who?", "me"),
    ]
    scores = [
        TargetScore((-1.0, -1.0), (True, True)),
        TargetScore((-1.0, -1.0, -1.0, -1.0), (True, False, True, True)),
        TargetScore((-1.0, -1.0, -1.0), (False, False, True)),
    ]
    assert measure_zsre(record, scores) == Measures(
        efficacy=1.0,
        paraphrase=3 / 4,
        neighborhood=1 / 3,
        generation_success=1.0,
        ends_right=1.0,
        paraphrase_generation_success=0.0,
    )


def test_means_are_over_records_with_the_papers_interval() -> None:
    measured = [
        Measures(efficacy=1.0, paraphrase=0.5, neighborhood=0.2, reference_score=0.3),
        Measures(efficacy=0.0, paraphrase=1.0, neighborhood=0.4),
        Measures(efficacy=1.0, paraphrase=0.0, neighborhood=0.6),
    ]
    summary = summarise(measured)
    assert summary.values["efficacy"] == pytest.approx(2 / 3)
    assert summary.values["paraphrase"] == pytest.approx(0.5)
    assert summary.values["neighborhood"] == pytest.approx(0.4)
    assert summary.values["score"] == pytest.approx(3 / (1 / (2 / 3) + 1 / 0.5 + 1 / 0.4))
    assert summary.values["generation_entropy"] is None
    # the values 1, 0, 1 have variance 2/9
    assert summary.ci95["efficacy"] == pytest.approx(1.96 * math.sqrt(2 / 9) / math.sqrt(3))
    assert summary.values["reference_score"] == 0.3
    assert summary.ci95["reference_score"] is None  # one record only


def test_the_scores_interval_is_that_of_drawn_records() -> None:
    measured = [Measures(efficacy=1.0, paraphrase=1.0, neighborhood=v) for v in (0.2, 0.8)] * 50
    summary = summarise(measured, seed=1)
    assert summarise(measured, seed=1) == summary
    varied = [Measures(efficacy=1.0, paraphrase=i / 31, neighborhood=1 / i) for i in range(1, 31)]
    assert summarise(varied, seed=1).ci95["score"] != summarise(varied, seed=2).ci95["score"]
    # neighborhood is 0.5 with a standard error of 0.03; d(score)/d(neighborhood) is
    # 3 / (n·(1/n + 2))² = 0.75 at n = 0.5, so the half-width is about 1.96 · 0.03 · 0.75
    assert summary.ci95["score"] == pytest.approx(1.96 * 0.03 * 0.75, rel=0.15)
    assert summarise([measured[0]] * 30).ci95["score"] == 0


def test_the_score_without_a_share_or_with_a_zero() -> None:
    assert harmonic_mean([1.0, 0.5, None]) is None
    assert harmonic_mean([1.0, 0.5, 0.0]) == 0
    assert harmonic_mean([0.5, 0.5, 0.5]) == pytest.approx(0.5)


def test_of_contradicting_records_the_last_stays() -> None:
    def record(index: int, prompt: str, target: str) -> Record:
        return Record(index, Fact("Lyon", prompt, target), (), ())

    records = [
        record(0, "{} is in", "Rome"),
        record(1, "{} was in", "Rome"),
        record(2, "{} is in", "Bern"),
        record(3, "{} is in", "Bern"),
    ]
    assert [r.index for r in without_conflicts(records)] == [1, 2, 3]


def test_datasets_are_told_apart_by_name() -> None:
    assert (COUNTERFACT.name, ZSRE.name) == ("counterfact", "zsre")

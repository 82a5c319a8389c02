"""What is measured before a commit, and what the gate makes of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from contracts.edits import EditState, Gate
from contracts.reports import Report, Scores
from contracts.settings import Settings
from contracts.versions import VersionStatus
from memit_core.preset import guess
from tests.unit.memit_core.examples import HPARAMS, loaded_tiny
from tests.unit.worker.conftest import MakeWorkshop
from tests.unit.worker.workshop import Workshop, fact, keepers
from worker.quality import LIVE_SAMPLE, refusal, sampled

UNTAUGHT = replace(HPARAMS, v_num_grad_steps=1)
"""A single forward and no update: nothing can be learned."""


def test_a_sample_depends_on_seed_and_ids_alone() -> None:
    facts = {one.id: one for one in keepers(50)}
    drawn = sampled(facts, 8, "edit-1")

    def rank(fact_id: str) -> str:
        return hashlib.sha256(f'["edit-1","{fact_id}"]'.encode()).hexdigest()

    assert list(drawn) == sorted(facts, key=rank)[:8]
    assert drawn == {fact_id: facts[fact_id] for fact_id in drawn}
    backwards = dict(reversed(facts.items()))
    assert list(sampled(backwards, 8, "edit-1")) == list(drawn)
    assert set(sampled(facts, 8, "edit-2")) != set(drawn)
    assert sampled(facts, 100, "edit-1").keys() == facts.keys()


@pytest.mark.parametrize(
    ("setting", "own", "sample", "refused"),
    [
        (0.0, None, Scores(facts=3, success=0.0), False),  # off, which is the default
        (0.9, None, Scores(facts=3, success=0.5), True),
        (0.5, None, Scores(facts=3, success=0.5), False),
        (0.9, 0.4, Scores(facts=3, success=0.5), False),
        (0.0, 0.6, Scores(facts=3, success=0.5), True),
        (0.9, None, Scores(facts=0), False),
        (0.9, None, None, False),
    ],
)
def test_the_gate_on_older_facts(
    setting: float, own: float | None, sample: Scores | None, refused: bool
) -> None:
    report = Report(facts=1, success=1, live_sample=sample)
    reason = refusal(report, Gate(min_live_success=own), Settings(gate_min_live_success=setting))
    asked = setting if own is None else own
    expected = f"live_success is 0.5, the gate asks ≥ {asked:g}" if refused else None
    assert reason == expected
    assert Settings().gate_min_live_success == 0


def test_a_report_tells_of_own_facts_and_of_a_sample_of_the_others(workshop: Workshop) -> None:
    """A first edit finds no others; a second is measured on its own facts and on older ones."""
    measured = {
        "target_true": "Berlin",
        "paraphrase_prompts": ["The home of Anna is", "Anna's town is called"],
        "neighborhood_prompts": ["Bruno lives in the town of"],
    }
    old = [fact("Anna Keller", **measured), fact("Bruno Okafor", "Paris"), fact("Carla", "Rome")]
    first = workshop.report(workshop.version(old))
    assert (first.facts, first.live_sample) == (3, Scores(facts=0))

    new = [fact("Mount Elbrus", "Geneva"), fact("Carla", "Vienna")]  # the latter supersedes
    version = workshop.version(new)
    report = workshop.report(version)
    assert [one.id for one in report.per_fact] == [one.id for one in new]
    own = workshop.scores(version, new)
    assert [one.success for one in report.per_fact] == [score.success for score in own]
    assert [one.p_new for one in report.per_fact] == pytest.approx([score.p_new for score in own])

    anna, bruno = workshop.scores(version, old[:2])
    sample = report.live_sample
    assert sample is not None
    assert sample.facts == 2
    assert sample.success == (anna.success + bruno.success) / 2
    assert sample.efficacy == anna.efficacy
    assert sample.paraphrase == anna.paraphrase
    assert sample.specificity == anna.specificity
    assert None not in (anna.efficacy, anna.paraphrase, anna.specificity)


def test_the_sample_is_bounded_and_a_retraction_is_measured_by_it(workshop: Workshop) -> None:
    many = keepers(LIVE_SAMPLE + 8)
    workshop.version(many)
    gone = [one.id for one in many[:2]]
    report = workshop.report(workshop.version([], retract=gone))
    assert (report.facts, report.success, report.per_fact) == (0, None, [])
    assert report.live_sample is not None
    assert report.live_sample.facts == LIVE_SAMPLE


def test_the_seconds_of_measuring_are_told(workshop: Workshop) -> None:
    report = workshop.report(workshop.version(keepers(4)))
    assert {"z", "insert", "evaluate"} <= report.seconds.keys()
    assert report.seconds["evaluate"] > 0


def test_a_refusal_of_what_a_guess_wrote_says_how_to_do_better(
    make_workshop: MakeWorkshop,
) -> None:
    guessed = guess(loaded_tiny("llama").structure)
    end = make_workshop(guessed).run([fact("Anna")], gate={"max_perplexity_ratio": 1e-9})
    assert end.problem is not None
    assert "perplexity_ratio is" in end.problem.detail
    assert "`memit calibrate --model llama --to FILE`" in end.problem.detail


def test_an_edit_that_leaves_older_facts_unanswered_can_be_refused(
    make_workshop: MakeWorkshop,
) -> None:
    workshop = make_workshop(UNTAUGHT)
    before = workshop.version(keepers(3))
    assert workshop.registry.versions.resolve("active") == before
    end = workshop.run([fact("Anna")], gate={"min_live_success": 0.5})
    assert end.state is EditState.REJECTED
    assert end.problem is not None
    assert end.problem.detail == "live_success is 0, the gate asks ≥ 0.5"
    assert end.version is not None
    assert workshop.registry.versions.get(end.version).status is VersionStatus.REJECTED
    assert workshop.registry.versions.resolve("active") == before
    # Facts that missed are listed with the edit and with the version.
    assert end.missed == workshop.report(end.version).missed == [fact("Anna").id]

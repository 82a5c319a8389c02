"""The full report: it comes by itself, comes once, gives way to everything, and harms nothing."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import torch
from redis.exceptions import LockError

from contracts.facts import Fact
from contracts.reports import FullReport
from contracts.transport import REPORTER_LOCK
from memit_core.errors import Cancelled
from registry.errors import BlobDamaged
from tests.unit.worker.engine.stage import wait_for
from tests.unit.worker.workshop import Workshop, fact, keepers
from worker import full_report
from worker.full_report import FullReporter

RUNNING = threading.Event()
FACTS = [*keepers(8), fact("Anna Keller", "Geneva"), fact("Mount Elbrus", "Portugal")]


class Forwards:
    """Counts forwards of a reporter, which asks before each whether rows are generated."""

    count = 0

    def __call__(self) -> bool:
        self.count += 1
        return False


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_report, "SLICE_FACTS", 2)
    monkeypatch.setattr(full_report, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(full_report, "AFTER_FAILURE_SECONDS", 0.01)


@contextmanager
def in_background(reporter: FullReporter) -> Iterator[threading.Thread]:
    stopping = threading.Event()
    thread = threading.Thread(target=reporter.keep_reporting, args=(stopping,))
    thread.start()
    try:
        yield thread
    finally:
        stopping.set()
        thread.join(5)
        assert not thread.is_alive(), "it did not stop"


def test_every_live_fact_is_measured_after_the_commit(workshop: Workshop) -> None:
    old = fact("Bruno Okafor", "Paris", target_true="Berlin", paraphrase_prompts=["Bruno's town:"])
    workshop.version([old])
    version = workshop.version(FACTS)
    with in_background(workshop.reporter()):
        wait_for(lambda: workshop.full_report(version) is not None)
    report = workshop.full_report(version)
    assert report is not None
    live: list[Fact] = [old, *FACTS]
    scores = workshop.scores(version, live)
    assert (report.facts, report.live) == (11, 11)
    assert report.success == pytest.approx(sum(score.success for score in scores) / 11)
    assert report.efficacy == scores[0].efficacy
    assert report.paraphrase == scores[0].paraphrase
    missed = {one.id for one, score in zip(live, scores, strict=True) if not score.success}
    assert set(report.missed) == missed
    assert report.seconds > 0
    assert report.at == pytest.approx(time.time(), abs=60)
    assert workshop.registry.versions.describe(version).full_report == report


def test_the_active_version_comes_first_then_the_newest(workshop: Workshop) -> None:
    reporter = workshop.reporter()
    assert reporter.report(RUNNING) is None, "v0 has no facts"
    workshop.version([fact("Anna")])
    active = workshop.version([fact("Bruno")])
    dry = workshop.version([fact("Carla")], activate=False)
    assert [reporter.report(RUNNING) for _ in range(3)] == [active, dry, None]


def test_every_version_of_a_split_gets_its_report(workshop: Workshop) -> None:
    reporter, aliases = workshop.reporter(), workshop.registry.aliases
    light, heavy, newest = (workshop.version([fact(name)]) for name in ("Anna", "Bruno", "Carla"))
    aliases.move("active", {light: 1, heavy: 9}, aliases.history("active")[-1].epoch)
    assert [reporter.report(RUNNING) for _ in range(4)] == [heavy, light, newest, None]


def test_of_very_many_facts_a_fixed_sample_is_measured(workshop: Workshop) -> None:
    version = workshop.version(FACTS)
    assert workshop.reporter(0).report(RUNNING) is None
    workshop.reporter(3).report(RUNNING)
    report = workshop.full_report(version)
    assert report is not None
    assert (report.facts, report.live) == (3, 10)
    (workshop.registry.store.root / "versions" / f"{version}.report.json").unlink()
    workshop.reporter(3).report(RUNNING)
    again = workshop.full_report(version)
    assert again is not None
    assert (again.missed, again.success) == (report.missed, report.success)
    assert len(again.missed) == 3 * (1 - (again.success or 0))


def test_a_report_is_put_once(workshop: Workshop) -> None:
    """Another worker's report that comes in the middle stands, and ours is given up."""
    version = workshop.version(FACTS)
    theirs = FullReport(facts=10, live=10, success=1, seconds=1, at=1)
    forwards = Forwards()

    def rival() -> bool:
        if forwards.count == 3:
            workshop.registry.full_reports.put(version, theirs)
        return forwards()

    reporter = workshop.reporter(generating=rival)
    with pytest.raises(Cancelled):
        reporter.report(RUNNING)
    assert workshop.full_report(version) == theirs
    assert reporter.report(RUNNING) is None


def test_it_gives_way_to_an_edit_and_goes_on_where_it_was(workshop: Workshop) -> None:
    version = workshop.version(FACTS)
    forwards = Forwards()
    editing = threading.Event()

    def until_the_fourth() -> bool:
        if forwards.count == 4:
            editing.set()
        return editing.is_set()

    reporter = workshop.reporter(editing=until_the_fourth, generating=forwards)
    with pytest.raises(Cancelled):
        reporter.report(RUNNING)
    assert forwards.count == 4, "no forward after the edit came"
    assert workshop.full_report(version) is None
    with pytest.raises(Cancelled):
        reporter.report(RUNNING)
    assert forwards.count == 4, "none as long as it runs"

    forwards.count = 100
    editing.clear()
    assert reporter.report(RUNNING) == version
    undisturbed = Forwards()
    report = workshop.full_report(version)
    (workshop.registry.store.root / "versions" / f"{version}.report.json").unlink()
    workshop.reporter(generating=undisturbed).report(RUNNING)
    assert forwards.count - 100 < undisturbed.count, "slices measured before are not measured again"
    whole = workshop.full_report(version)
    assert report is not None
    assert whole is not None
    assert (report.facts, report.missed) == (whole.facts, whole.missed)


def test_a_newer_version_takes_its_place(workshop: Workshop) -> None:
    old = workshop.version(FACTS)
    forwards = Forwards()
    newer: list[str] = []
    gone = [one.id for one in FACTS[:8]]

    def an_edit_comes() -> bool:
        if forwards.count == 3 and not newer:
            edit = threading.Thread(
                target=lambda: newer.append(workshop.version([fact("Anna", "Rome")], retract=gone))
            )
            edit.start()
            edit.join()
        return False

    reporter = workshop.reporter(editing=an_edit_comes, generating=forwards)
    with pytest.raises(Cancelled):
        reporter.report(RUNNING)
    assert reporter.report(RUNNING) == newer[0]
    assert reporter.report(RUNNING) is None
    assert workshop.full_report(old) is None
    report = workshop.full_report(newer[0])
    assert report is not None
    assert report.facts == len(FACTS[8:]) + 1, "and no score of the old one"


def test_each_forward_lets_generation_go_first_but_not_for_ever(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = workshop.version(FACTS[:3])
    monkeypatch.setattr(full_report, "GENERATION_WAIT_SECONDS", 0.2)
    begun = time.monotonic()
    assert workshop.reporter(generating=lambda: True).report(RUNNING) == version
    assert time.monotonic() - begun > 3 * 0.2  # before it began, and before each of two slices


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP")
def test_no_threads_of_its_own_stay_while_generation_goes_first(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.version(FACTS[:3])
    monkeypatch.setattr(full_report, "GENERATION_WAIT_SECONDS", 0.2)
    before = torch.get_num_threads()
    counts: list[tuple[int, int]] = []

    def generating() -> bool:
        found = psutil.Process().num_threads()
        assert float((torch.ones(2_000, 2_000) * 2).sum()) == 8e6
        counts.append((found, psutil.Process().num_threads()))
        return True

    torch.set_num_threads(4)
    try:
        workshop.reporter(generating=generating).report(RUNNING)
    finally:
        torch.set_num_threads(before)
    waited = [with_team - after for (_, with_team), (after, _) in itertools.pairwise(counts)]
    assert waited.count(3) > len(waited) / 2, counts


@pytest.mark.parametrize("waits_for", ["editing", "generating"])
def test_a_stop_ends_it_in_the_middle(workshop: Workshop, waits_for: str) -> None:
    version = workshop.version(FACTS)
    with in_background(workshop.reporter(**{waits_for: lambda: True})):
        time.sleep(0.1)
    assert workshop.full_report(version) is None
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Cancelled):
        workshop.reporter().report(stopping)


def test_one_worker_measures_at_a_time(workshop: Workshop) -> None:
    version = workshop.version(FACTS)
    with workshop.redis.lock(REPORTER_LOCK, timeout=60), pytest.raises(LockError):
        workshop.reporter().report(RUNNING)
    assert workshop.full_report(version) is None
    assert workshop.reporter().report(RUNNING) == version


def test_an_error_is_logged_and_the_next_try_succeeds(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    version = workshop.version(FACTS)
    digest = workshop.registry.versions.get(version).weights[0].blob
    blob = workshop.registry.store.root / "blobs" / "sha256" / digest[:2] / digest
    whole = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")
    with pytest.raises(BlobDamaged):
        workshop.reporter().report(RUNNING)
    with in_background(workshop.reporter()):
        wait_for(lambda: "a full report failed" in caplog.text)
        assert workshop.full_report(version) is None
        blob.write_bytes(whole)
        wait_for(lambda: workshop.full_report(version) is not None)

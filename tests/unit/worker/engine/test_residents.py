"""Six versions share four slots: leased ones stay, unused ones go, any comes back on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from contracts.errors import Unavailable
from contracts.ids import VersionId
from memit_core.weights import encode_delta
from tests.unit.worker.engine.stage import (
    EDITED_BLOCKS,
    PROMPTS,
    Listener,
    Stage,
    answers,
    ask,
    make_stage,
    run_until,
)
from worker.engine.engine import Engine


@pytest.fixture
def stage(registry_path: Path) -> Stage:
    return make_stage("gpt2", registry_path)


@pytest.fixture
def versions(stage: Stage) -> list[VersionId]:
    return [stage.publish(seed) for seed in range(1, 7)]


def edited(engine: Engine) -> list[VersionId]:
    return engine.residents.held()[1:]


def test_six_versions_are_answered_from_four_slots(stage: Stage, versions: list[VersionId]) -> None:
    engine = stage.engine(limit=4)
    asked = [(version, prompt) for prompt in PROMPTS[:3] for version in versions]
    rows = [ask(engine, prompt, version) for version, prompt in asked]

    def done() -> bool:
        assert len(edited(engine)) <= 4
        return all(row.done for row in rows)

    run_until(engine, done)
    assert [row.text for row in rows] == [stage.generated(*pair) for pair in asked]
    assert engine.residents.held()[0] == stage.base_version


def test_a_leased_version_is_never_evicted(stage: Stage, versions: list[VersionId]) -> None:
    """Four long answers hold the slots; the fifth version waits for the first to end, while the
    base, which needs no slot, is answered at once."""
    engine = stage.engine(limit=4)
    lengths = [100, 120, 140, 160]
    holders = [
        ask(engine, PROMPTS[0], version, max_tokens=length)
        for version, length in zip(versions, lengths, strict=False)
    ]
    run_until(engine, lambda: all(row.started for row in holders))
    fifth = ask(engine, PROMPTS[1], versions[4])
    base = ask(engine, PROMPTS[1], stage.base_version)

    answers(engine, [base])
    assert not fifth.started
    assert sorted(edited(engine)) == sorted(versions[:4])

    run_until(engine, lambda: holders[0].done)
    assert not any(row.done for row in holders[1:])
    run_until(engine, lambda: fifth.done)
    assert versions[0] not in edited(engine), "its slot was the only free one"

    texts = answers(engine, [*holders, fifth])
    pairs = zip(versions, lengths, strict=False)
    references = [stage.generated(version, PROMPTS[0], length) for version, length in pairs]
    assert texts == [*references, stage.generated(versions[4], PROMPTS[1])]


def test_the_least_recently_used_goes_first(stage: Stage, versions: list[VersionId]) -> None:
    engine = stage.engine(limit=3)
    for version in [*versions[:3], versions[0], versions[3]]:
        answers(engine, [ask(engine, PROMPTS[0], version)])
    assert edited(engine) == [versions[2], versions[0], versions[3]]


def test_what_is_kept_goes_last(stage: Stage, versions: list[VersionId]) -> None:
    engine = stage.engine(limit=3)
    assert engine.residents.keep(versions[:2])
    for version in versions[:5]:
        answers(engine, [ask(engine, PROMPTS[0], version)])
    assert edited(engine) == [versions[0], versions[1], versions[4]]
    # It is given up where nothing else is free, and for what is kept in its place.
    engine.residents.keep([versions[1]])
    answers(engine, [ask(engine, PROMPTS[0], versions[5])])
    assert edited(engine) == [versions[1], versions[4], versions[5]]
    rows = [ask(engine, PROMPTS[0], version, max_tokens=40) for version in versions[2:5]]
    assert answers(engine, rows) == [stage.generated(v, PROMPTS[0], 40) for v in versions[2:5]]
    assert not engine.residents.keep(versions[:4]), "three slots"


def test_an_evicted_version_comes_back_and_answers_the_same(
    stage: Stage, versions: list[VersionId]
) -> None:
    engine = stage.engine(limit=1)
    first = [answers(engine, [ask(engine, PROMPTS[2], version)]) for version in versions]
    second = [answers(engine, [ask(engine, PROMPTS[2], version)]) for version in versions]
    assert first == second == [[stage.generated(v, PROMPTS[2])] for v in versions]


def test_nobody_waits_for_ever(stage: Stage, versions: list[VersionId]) -> None:
    """Two slots, two versions asked for again and again without a pause: the third gets its turn,
    and so do they after it."""
    engine = stage.engine(limit=2)
    busy: list[tuple[VersionId, Listener]] = []

    def keep_busy() -> None:
        for version in versions[:2]:
            rows = [row for v, row in busy if v == version]
            if len(rows) < 2 or rows[-2].done:
                busy.append((version, ask(engine, PROMPTS[0], version, max_tokens=20)))

    def after_keeping_busy(row: Listener) -> bool:
        keep_busy()
        return row.done

    warm_up = ask(engine, PROMPTS[1], versions[0], max_tokens=60)
    run_until(engine, lambda: after_keeping_busy(warm_up))
    third = ask(engine, PROMPTS[1], versions[2])
    run_until(engine, lambda: after_keeping_busy(third))
    answers(engine, [row for _, row in busy])
    assert third.text == stage.generated(versions[2], PROMPTS[1])


def test_others_go_on_while_a_version_is_loading(stage: Stage, versions: list[VersionId]) -> None:
    """The first version's blob is gone and its rebuilding takes long; the second is loaded and
    answered meanwhile, and the parked request takes no row."""
    [lost, *_] = stage.blob_files(versions[0])
    kept = lost.read_bytes()
    lost.unlink()
    may_go_on = threading.Event()
    rebuilt: list[VersionId] = []

    def rebuild(version: VersionId) -> None:
        assert may_go_on.wait(20)
        rebuilt.append(version)
        stage.registry.blobs.put(kept)

    engine = stage.engine(rebuild=rebuild, max_batch=1)
    parked = ask(engine, PROMPTS[0], versions[0])
    other = ask(engine, PROMPTS[0], versions[1])
    assert answers(engine, [other]) == [stage.generated(versions[1], PROMPTS[0])]
    assert (parked.started, engine.waiting, engine.running, engine.room) == (False, 1, 0, 1)

    may_go_on.set()
    assert answers(engine, [parked]) == [stage.generated(versions[0], PROMPTS[0])]
    assert rebuilt == [versions[0]]


def test_a_damaged_blob_is_rebuilt_once_and_answers_the_same(
    stage: Stage, versions: list[VersionId]
) -> None:
    for file in stage.blob_files(versions[0]):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    calls: list[VersionId] = []

    def rebuild(version: VersionId) -> None:
        calls.append(version)
        for delta in stage.deltas[version].values():
            stage.registry.blobs.put(encode_delta(delta))

    engine = stage.engine(rebuild=rebuild)
    [text] = answers(engine, [ask(engine, PROMPTS[0], versions[0])])
    assert text == stage.generated(versions[0], PROMPTS[0])
    assert calls == [versions[0]]
    assert all(
        hashlib.sha256(file.read_bytes()).hexdigest() == file.name
        for file in stage.blob_files(versions[0])
    )


def test_what_cannot_be_loaded_is_a_503_and_never_another_version(
    stage: Stage, versions: list[VersionId]
) -> None:
    [lost, *_] = stage.blob_files(versions[0])
    kept = lost.read_bytes()
    lost.unlink()
    engine = stage.engine()
    sick, healthy = (ask(engine, PROMPTS[0], version) for version in versions[:2])
    run_until(engine, lambda: sick.done and healthy.done)

    assert not sick.started
    assert sick.problem is not None
    assert sick.problem.status == 503
    assert versions[0] in sick.problem.detail
    assert healthy.text == stage.generated(versions[1], PROMPTS[0])
    assert edited(engine) == [versions[1]]

    stage.registry.blobs.put(kept)
    [text] = answers(engine, [ask(engine, PROMPTS[0], versions[0])])
    assert text == stage.generated(versions[0], PROMPTS[0])


def test_a_rebuild_that_fails_is_a_503(stage: Stage, versions: list[VersionId]) -> None:
    stage.blob_files(versions[0])[0].unlink()

    def rebuild(version: VersionId) -> None:
        raise OSError(28, "No space left on device")

    engine = stage.engine(rebuild=rebuild)
    row = ask(engine, PROMPTS[0], versions[0])
    run_until(engine, lambda: row.done)
    assert row.problem is not None
    assert "No space left" in row.problem.detail


def test_a_version_of_another_base_is_not_served(stage: Stage, tmp_path: Path) -> None:
    other = make_stage("llama", tmp_path / "other")
    foreign = other.publish(1)
    mixed = Stage(stage.loaded, stage.structure, other.root, other.registry)
    engine = mixed.engine()
    row = ask(engine, PROMPTS[0], foreign)
    run_until(engine, lambda: row.done)
    assert row.problem is not None
    assert "another base model" in row.problem.detail


def test_a_request_whose_version_does_not_load_in_time_is_let_go(
    stage: Stage, versions: list[VersionId]
) -> None:
    stage.blob_files(versions[0])[0].unlink()
    release = threading.Event()
    engine = stage.engine(rebuild=lambda _: release.wait(20) and None)
    row = ask(engine, PROMPTS[0], versions[0], deadline=0.2)
    run_until(engine, lambda: row.done)
    release.set()
    assert row.problem is not None
    assert row.problem.status == 503
    assert not row.started


def test_ensure_brings_a_version_in_before_anybody_asks(
    stage: Stage, versions: list[VersionId]
) -> None:
    engine = stage.engine(limit=1)
    answers(engine, [ask(engine, PROMPTS[0], versions[0])])

    wanted = [engine.residents.ensure(v) for v in (versions[1], stage.base_version)]
    run_until(engine, lambda: all(future.done() for future in wanted))
    assert edited(engine) == [versions[1]]

    engine.residents.ensure(versions[1]).add_done_callback(lambda _: None)
    engine.step()
    row = ask(engine, PROMPTS[0], versions[1])
    engine.step()
    assert row.started, "it was in memory"
    answers(engine, [row])


def test_ensure_tells_why_it_could_not(stage: Stage, versions: list[VersionId]) -> None:
    stage.blob_files(versions[0])[0].unlink()
    engine = stage.engine()
    wanted = engine.residents.ensure(versions[0])
    unknown = engine.residents.ensure("v99-0123456789ab")
    run_until(engine, lambda: wanted.done() and unknown.done())
    assert isinstance(wanted.exception(), Unavailable)
    assert "no version v99-0123456789ab" in str(unknown.exception())
    assert not engine.residents.loading


def test_ensure_waits_for_a_slot_without_disturbing_anybody(
    stage: Stage, versions: list[VersionId]
) -> None:
    engine = stage.engine(limit=1)
    row = ask(engine, PROMPTS[0], versions[0], max_tokens=80)
    run_until(engine, lambda: row.started)
    wanted = engine.residents.ensure(versions[1])
    for _ in range(20):
        engine.step()
    time.sleep(0.05)
    engine.step()
    assert not wanted.done()
    assert answers(engine, [row]) == [stage.generated(versions[0], PROMPTS[0], 80)]
    run_until(engine, wanted.done)
    assert edited(engine) == [versions[1]]


def test_versions_of_few_matrices_leave_room_for_more(stage: Stage) -> None:
    """Room is counted in bytes: one block's change takes a part of what several blocks' takes."""
    small = [
        stage.publish(seed, EDITED_BLOCKS[:1]) for seed in range(1, 2 * len(EDITED_BLOCKS) + 1)
    ]
    large = stage.publish(50)
    engine = stage.engine(limit=2)
    for version in small:
        answers(engine, [ask(engine, PROMPTS[0], version)])
    assert edited(engine) == small
    answers(engine, [ask(engine, PROMPTS[0], large)])
    assert edited(engine) == [*small[1:], large]


def test_one_that_is_larger_than_all_the_room_is_served(stage: Stage) -> None:
    one, other = stage.publish(1), stage.publish(2)
    engine = stage.engine(limit=0)
    for version in (one, other, one):
        text = answers(engine, [ask(engine, PROMPTS[0], version)])
        assert text == [stage.generated(version, PROMPTS[0])]
        assert edited(engine) == [version]

"""A short cut of `make chaos` and `make soak`: a few kills, a few faults, and the tools of both."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import fuse
from tests.chaos.faults import FAULTS
from tests.chaos.kills import Lane
from tests.chaos.lab import try_fault
from tests.chaos.oracle import ROUNDING, Oracle, greedy_texts
from tests.chaos.points import POINTS, VICTIMS, kind_of, plan
from tests.chaos.samples import Sample, growths
from tests.chaos.setting import settings_in
from tests.tiny_models import tiny_model, tiny_tokenizer

SEED = 1
TRIED = [
    ("worker", "manifest middle", 1),
    ("redis", "swap before", 1),
    ("service", "queue before", 1),
]


@pytest.fixture(scope="module")
def make_lane(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Lane]:
    folder = tmp_path_factory.mktemp("chaos")
    model, settings = settings_in(folder)
    oracle = Oracle(model)
    return lambda name: Lane(folder / name, model, oracle, SEED, **settings)


@pytest.mark.slow
def test_a_few_kills(make_lane: Callable[[str], Lane]) -> None:
    """Of a worker between a file and its name, of Redis, and of the service."""
    numbers = {plan(SEED, n)[:3]: n for n in range(len(POINTS) * len(VICTIMS))}
    lane = make_lane("kills")
    try:
        for victim, point, nth in TRIED:
            done = lane.kill(numbers[point, nth, victim])
            assert done.wrong == [], done
    finally:
        lane.close()
    assert lane.load.counts["whole"] > 10, "there was a load"


@pytest.mark.slow
def test_an_engine_dies_in_the_middle_of_answers(make_lane: Callable[[str], Lane]) -> None:
    """The other one gives them, on the same versions; none is refused."""
    assert try_fault(make_lane("engine"), FAULTS["engine-killed"], short=True) == []


def test_every_point_is_tried_with_every_victim() -> None:
    """In another order by seed and turn, the same one every time."""
    size = len(POINTS) * len(VICTIMS)
    turns = [[plan(seed, n)[:3] for n in range(first, first + size)] for seed, first in
             ((1, 0), (1, size), (2, 0))]  # fmt: skip
    assert all(set(turn) == set(turns[0]) and len(set(turn)) == size for turn in turns)
    assert turns[0] != turns[1] != turns[2]
    assert plan(1, 5)[:3] == plan(1, 5)[:3]
    assert plan(1, 5)[3].random() == plan(1, 5)[3].random()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("edits/edit-1/request.json", "request"),
        ("edits/edit-1/0.json", "step"),
        ("edits/by-seq/0.json", "place"),
        ("versions/v1-0123456789ab.json", "manifest"),
        ("versions/by-seq/1.json", "number"),
        ("versions/v1-0123456789ab.report.json", "other"),
        ("models/ab/z/cd", "z"),
        ("aliases/stable/1.json", "other"),
    ],
)
def test_files_have_their_names(path: str, kind: str) -> None:
    assert kind_of(f"/home/x/registry/{path}") == kind


def test_a_fuse_burns_once_at_its_nth_time(tmp_path: Path) -> None:
    watch = fuse.Watch(tmp_path)
    assert watch.at("a") is None
    fuse.lay(tmp_path, "a", "nan", nth=2)
    assert [watch.at(point) for point in ("b", "a", "b", "a", "a")] == [
        None,
        None,
        None,
        "nan",
        None,
    ]
    assert fuse.is_burnt(tmp_path)
    fuse.lay(tmp_path, "a", "no space", times=0)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            watch.at("a")
    fuse.take_away(tmp_path)
    assert watch.at("a") is None


@pytest.mark.parametrize(("an_hour", "leaks"), [(0.0, False), (100.0, False), (900.0, True)])
def test_what_grows_is_a_leak_once_it_is_more_than_noise(an_hour: float, leaks: bool) -> None:
    """A life of ten minutes at 100 MB, of which the first two do not count."""
    chance = random.Random(1)
    samples = [
        Sample(
            "worker", 1, at, rss_mb=100 + an_hour * at / 3_600 + chance.random(), files=9, threads=4
        )
        for at in range(0, 600, 10)
    ]
    begun = [Sample("worker", 1, 0.0, rss_mb=5, files=9, threads=4)]
    short = [Sample("worker", 2, float(at), rss_mb=at, files=9, threads=4) for at in range(200)]
    found = growths([*begun, *samples, *short])
    assert {one.pid for one in found} == {1}, "the other one did not live long enough"
    assert [one.leak for one in found if one.measure == "rss_mb"] == [leaks]
    assert not any(one.leak for one in found if one.measure != "rss_mb")


@pytest.mark.parametrize(("gap", "either"), [(0.0, True), (0.1, True), (10.0, False)])
def test_an_answer_may_go_either_way_only_where_two_tokens_tie(gap: float, either: bool) -> None:
    """The second token is planted this many roundings behind the first; no other text is right."""
    model = tiny_model("llama", tie_word_embeddings=False).double()
    tokenizer = tiny_tokenizer()
    prompt, steps = "Anna Keller works as a", 3
    (best,) = greedy_texts(model, tokenizer, prompt, steps)
    head = model.lm_head.weight.data
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    first, second = (int(t) for t in model(input_ids=ids).logits[0, -1].topk(2).indices)
    head[second] = head[first] * (1 - gap * ROUNDING)
    texts = greedy_texts(model, tokenizer, prompt, 1)
    assert texts == {tokenizer.decode([t]) for t in ((first, second) if either else (first,))}
    assert (len(greedy_texts(model, tokenizer, prompt, steps)) > 1) == either
    assert best in greedy_texts(model, tokenizer, prompt, steps)

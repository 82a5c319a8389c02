"""The engine's promise: whatever shares the batch, an answer is what plain `generate` gives on the
weights of the request's own version, and nobody's trouble is somebody else's."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.errors import Unavailable
from contracts.generation import EndEvent, GenerateTask, StartEvent, TokenEvent
from contracts.ids import VersionId
from tests.device import DEVICE
from tests.tiny_models import POSITIONS, TINY, tiny_tokenizer
from tests.unit.worker.engine.stage import (
    PROMPTS,
    Listener,
    Stage,
    answers,
    ask,
    make_stage,
    run_until,
)
from worker.engine.engine import DeviceLost, Engine
from worker.engine.pace import LEAST


@pytest.fixture
def llama(registry_path: Path) -> Stage:
    return make_stage("llama", registry_path)


def three_versions(stage: Stage) -> list[VersionId]:
    """The base, and two versions that changed different layers."""
    return [stage.base_version, stage.publish(1, (1, 2)), stage.publish(2, (2, 3))]


@pytest.mark.parametrize("name", TINY)
def test_alone_every_answer_is_generates_on_the_merged_weights(
    name: str, registry_path: Path
) -> None:
    stage = make_stage(name, registry_path)
    engine = stage.engine()
    texts = []
    for version in three_versions(stage):
        for prompt in PROMPTS[:4]:
            [text] = answers(engine, [ask(engine, prompt, version)])
            assert text == stage.generated(version, prompt)
            texts.append(text)
    assert len(set(texts)) > 9, "versions that answer alike would prove nothing"


@pytest.mark.parametrize("name", TINY)
def test_rows_of_three_versions_join_and_leave_one_batch(name: str, registry_path: Path) -> None:
    """Six prompts of 1 to 27 tokens on three versions, with answers of different length, enter
    two a step in small pieces; every answer is that of `generate` alone."""
    stage = make_stage(name, registry_path)
    versions = three_versions(stage)
    engine = stage.engine(prefill_tokens=16, max_batch=8)
    # How long a version takes to load is the machine's; the rows of one that is there may be over.
    loads = [engine.residents.ensure(version) for version in versions]
    run_until(engine, lambda: all(load.done() for load in loads))
    asked = [
        (version, prompt, 4 + 3 * row + place)
        for row, prompt in enumerate(PROMPTS)
        for place, version in enumerate(versions)
    ]
    listeners: list[Listener] = []
    together: set[frozenset[VersionId]] = set()

    def everything_answered() -> bool:
        for version, prompt, length in asked[len(listeners) : len(listeners) + 2]:
            listeners.append(ask(engine, prompt, version, max_tokens=length))
        running = [
            version
            for listener, (version, _, _) in zip(listeners, asked, strict=False)
            if listener.started and not listener.done
        ]
        together.add(frozenset(running))
        return len(listeners) == len(asked) and all(listener.done for listener in listeners)

    run_until(engine, everything_answered)

    assert frozenset(versions) in together, "all three versions were in one batch"
    for listener, (version, prompt, length) in zip(listeners, asked, strict=True):
        assert listener.text == stage.generated(version, prompt, length), (version, prompt)
        assert listener.end is not None
        assert listener.end.version == version


def test_no_tensor_waits_for_the_garbage_collector(llama: Stage) -> None:
    """Rows join and leave, versions are loaded and evicted; what is dropped is freed at once."""
    versions = three_versions(llama)
    engine = llama.engine(max_batch=4, limit=1)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for length in (3, 9):
            asked = [(p, v) for p in PROMPTS[:3] for v in versions]
            answers(engine, [ask(engine, p, v, max_tokens=length) for p, v in asked])
        gc.collect()
        left = [one for one in gc.garbage if isinstance(one, torch.Tensor)]
        assert not left, f"{len(left)} tensors, the first {left[0].shape}"
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_events_tell_the_version_and_the_usage(llama: Stage) -> None:
    version = llama.publish(1)
    engine = llama.engine(worker="worker-7")
    listener = ask(engine, "t5 t6 t7", version, max_tokens=4)
    answers(engine, [listener])

    start, *_, end = listener.events
    assert isinstance(start, StartEvent)
    assert isinstance(end, EndEvent)
    assert (start.version, start.worker) == (version, "worker-7")
    assert (end.version, end.finish_reason) == (version, "length")
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 4)
    assert engine.generated_tokens == 4


def test_a_pinned_answer_is_not_moved_by_a_newer_version(llama: Stage) -> None:
    """Half-way through an answer a newer version is installed and used; the old one is answered
    as before, in that answer and in one asked for afterwards."""
    old = llama.publish(1)
    engine = llama.engine()
    pinned = ask(engine, PROMPTS[2], old, max_tokens=200)
    run_until(engine, lambda: len(pinned.text.split()) > 10)

    new = llama.publish(2)
    installed = engine.residents.ensure(new)
    run_until(engine, installed.done, pause=0.01)
    fresh = ask(engine, PROMPTS[2], new, max_tokens=40)
    again = ask(engine, PROMPTS[2], old, max_tokens=40)
    assert not pinned.done

    texts = answers(engine, [pinned, fresh, again])
    assert texts[0] == llama.generated(old, PROMPTS[2], 200)
    assert texts[1:] == [llama.generated(version, PROMPTS[2], 40) for version in (new, old)]
    assert texts[1] != texts[2]


@pytest.mark.parametrize("name", TINY)
def test_a_row_may_fill_the_model_to_its_last_position(name: str, registry_path: Path) -> None:
    stage = make_stage(name, registry_path)
    engine = stage.engine()
    prompt = " ".join(f"t{1 + i % 500}" for i in range(POSITIONS - 6))
    rows = [ask(engine, prompt, stage.base_version, max_tokens=6)]
    rows.append(ask(engine, PROMPTS[0], stage.base_version, max_tokens=30))
    texts = answers(engine, rows)
    assert texts[0] == stage.generated(stage.base_version, prompt, 6)
    assert texts[1] == stage.generated(stage.base_version, PROMPTS[0], 30)


def test_an_end_of_text_token_ends_the_answer_and_is_not_shown(llama: Stage) -> None:
    reference = llama.generated(llama.base_version, PROMPTS[0]).split()
    fourth = int(reference[3].removeprefix("t"))
    assert reference.index(reference[3]) == 3
    llama.loaded.model.generation_config.eos_token_id = [0, fourth]
    engine = llama.engine()

    listener = ask(engine, PROMPTS[0], llama.base_version)

    assert answers(engine, [listener])[0].split() == reference[:3]
    assert listener.end is not None
    assert listener.end.finish_reason == "stop"
    assert listener.end.usage.completion_tokens == 4


def test_the_tokenizers_end_of_text_counts_where_the_model_names_none(llama: Stage) -> None:
    reference = llama.generated(llama.base_version, PROMPTS[0]).split()
    llama.loaded.model.generation_config.eos_token_id = None
    llama.loaded.tokenizer.eos_token = reference[2]
    engine = llama.engine()
    [text] = answers(engine, [ask(engine, PROMPTS[0], llama.base_version)])
    assert text.split() == reference[:2]


def test_a_stop_token_ends_the_answer_before_it(llama: Stage) -> None:
    whole = llama.generated(llama.base_version, PROMPTS[0], 12)
    words = whole.split()
    stop = next(i for i, word in enumerate(words) if i and word not in words[:i])
    engine = llama.engine()
    listener = ask(
        engine, PROMPTS[0], llama.base_version, max_tokens=12, stop_token_ids=[int(words[stop][1:])]
    )
    answers(engine, [listener])
    assert listener.text.split() == words[:stop]
    assert listener.end is not None
    assert listener.end.finish_reason == "stop"


def test_a_stop_string_that_is_a_special_token_ends_the_answer(tmp_path: Path) -> None:
    prompt, tokenizer = "The lighthouse keeper", tiny_tokenizer()
    model = make_stage("llama", tmp_path / "plain", tokenizer).loaded.model
    first = (
        model(torch.tensor([tokenizer(prompt)["input_ids"]], device=DEVICE)).logits[0, -1].argmax()
    )
    name = tokenizer.convert_ids_to_tokens([int(first)])[0]
    tokenizer.backend_tokenizer.add_special_tokens([name])
    stage = make_stage("llama", tmp_path / "marked", tokenizer)
    engine = stage.engine()
    stopped = ask(engine, prompt, stage.base_version, max_tokens=8, stop=[name])
    whole = ask(engine, prompt, stage.base_version, max_tokens=8)
    answers(engine, [stopped, whole])
    assert (stopped.text, name in whole.text) == ("", False)
    assert whole.text
    assert stopped.end is not None
    assert (stopped.end.finish_reason, stopped.end.usage.completion_tokens) == ("stop", 1)


def test_a_stop_string_across_token_borders_ends_the_answer(registry_path: Path) -> None:
    stage = make_stage("llama", registry_path, tiny_tokenizer())
    prompt = "The lighthouse keeper"
    whole = stage.generated(stage.base_version, prompt, 30)
    stop = whole[5:9]
    engine = stage.engine()
    listener = ask(engine, prompt, stage.base_version, max_tokens=30, stop=["§§", stop])
    bystander = ask(engine, prompt, stage.base_version, max_tokens=30)

    answers(engine, [listener, bystander])

    assert listener.text == whole[: whole.index(stop)]
    assert listener.end is not None
    assert listener.end.finish_reason == "stop"
    assert listener.end.usage.completion_tokens < 30
    assert whole.startswith(bystander.text)


def refused(engine: Engine, stage: Stage, prompt: str, **sampling: Any) -> tuple[Any, ...]:
    listener = ask(engine, prompt, stage.base_version, **sampling)
    assert listener.problem is not None
    assert listener.problem.status == 422
    [error] = listener.problem.errors
    assert error.reason in listener.problem.detail
    return error.field, error.reason, error.limit


def test_token_limits_are_the_callers_422(llama: Stage) -> None:
    engine = llama.engine(max_context=20)
    words = " ".join(["t5"] * 20)
    assert refused(engine, llama, words) == (
        "/prompt",
        "has 20 tokens; at most 19 leave room for an answer",
        19,
    )
    assert refused(engine, llama, words[:-9], max_tokens=4) == (
        "/max_tokens",
        "is 4 after a prompt of 17 tokens; 20 fit together",
        20,
    )
    assert refused(engine, llama, "  ") == ("/prompt", "tokenises to nothing", None)
    assert engine.waiting == 0
    fits = ask(engine, words[:-9], llama.base_version, max_tokens=3)
    answers(engine, [fits])


def test_the_models_own_limit_holds_too(llama: Stage) -> None:
    field, _, limit = refused(llama.engine(), llama, "t5", max_tokens=POSITIONS)
    assert (field, limit) == ("/max_tokens", POSITIONS)


def test_a_request_past_its_deadline_never_starts(llama: Stage) -> None:
    engine = llama.engine()
    late = ask(engine, PROMPTS[0], llama.base_version, deadline=-1)
    engine.step()
    assert not late.started
    assert late.problem is not None
    assert late.problem.status == 503
    assert not engine.busy


def test_how_many_could_start_is_read_off_the_answers(llama: Stage) -> None:
    """A second answer that takes longer lets it fall a little; see `starts_per_second`."""
    engine = llama.engine(max_batch=4)
    assert engine.starts_per_second is None
    begun = time.monotonic()
    first = ask(engine, "Anna", llama.base_version, max_tokens=2)
    run_until(engine, lambda: first.done)
    engine.step()
    rate = engine.starts_per_second
    assert rate is not None
    assert rate >= 4 / (time.monotonic() - begun)
    second = ask(engine, "Anna", llama.base_version, max_tokens=4)
    engine.step()
    time.sleep(0.5)
    run_until(engine, lambda: second.done)
    engine.step()
    assert engine.starts_per_second < rate


def test_a_dropped_request_frees_its_row(llama: Stage) -> None:
    """Whether it waits, prefills or runs; the others are answered as if it had never been."""
    version = llama.publish(1)
    engine = llama.engine(max_batch=2, prefill_tokens=8)
    running = ask(engine, PROMPTS[0], version, max_tokens=200)
    stays = ask(engine, PROMPTS[1], version)
    run_until(engine, lambda: len(running.text) > 20)
    long = " ".join(["t9"] * 100)
    waiting = ask(engine, long, version)
    engine.step()
    assert (engine.running, engine.waiting) == (2, 1)

    heard = len(running.events)
    engine.drop(engine_id(running))
    engine.step()
    engine.step()
    assert waiting.started
    assert waiting.text == "", "it is still prefilling"
    engine.drop(engine_id(waiting))

    assert answers(engine, [stays]) == [llama.generated(version, PROMPTS[1])]
    run_until(engine, lambda: not engine.busy)
    assert engine.room == 2
    assert len(running.events) == heard, "nobody listens"
    assert len(waiting.events) == 1


def engine_id(listener: Listener) -> str:
    start = listener.events[0] if listener.events else None
    assert isinstance(start, StartEvent)
    return start.id


def test_a_long_prompt_does_not_hold_up_running_rows(llama: Stage) -> None:
    engine = llama.engine(prefill_tokens=16)
    running = ask(engine, PROMPTS[0], llama.base_version, max_tokens=60)
    engine.step()
    prompt = " ".join(f"t{i}" for i in range(1, 161))
    long = ask(engine, prompt, llama.base_version)

    for _ in range(9):
        before = len(running.text)
        engine.step()
        assert len(running.text) > before
        assert long.text == ""

    texts = answers(engine, [running, long])
    assert texts[0] == llama.generated(llama.base_version, PROMPTS[0], 60)
    assert texts[1] == llama.generated(llama.base_version, prompt)


def test_a_long_prompt_does_not_make_short_ones_wait(llama: Stage) -> None:
    """Two long ones are computed at a time, and a short one that comes later passes the first."""
    engine = llama.engine(prefill_tokens=16, max_batch=8)
    long = [" ".join(f"t{i}" for i in range(start, start + 160)) for start in (1, 101, 201)]
    first = ask(engine, long[0], llama.base_version)
    engine.step()
    short = ask(engine, PROMPTS[0], llama.base_version)
    engine.step()
    assert short.text != ""
    others = [ask(engine, prompt, llama.base_version) for prompt in long[1:]]
    engine.step()
    engine.step()
    assert first.text == ""
    assert [one.started for one in others] == [True, False]

    texts = answers(engine, [first, *others, short])

    asked = [*long, PROMPTS[0]]
    assert texts == [llama.generated(llama.base_version, prompt) for prompt in asked]


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there a step always computes all it may")
def test_a_burst_of_short_prompts_gives_a_long_one_no_more_time(
    llama: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside running rows: all short ones at once, of the long one what a step has for it."""
    engine = llama.engine(max_batch=8)
    rows = [ask(engine, PROMPTS[0], llama.base_version, max_tokens=60) for _ in range(2)]
    engine.step()
    monkeypatch.setattr(engine._pace, "_token_seconds", 0.001)
    monkeypatch.setattr(engine._pace, "_step_seconds", 0.0)
    sizes: list[int] = []
    engine._view.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    monkeypatch.setattr("worker.engine.engine.SHORT", 60)
    monkeypatch.setattr("worker.engine.pace.SHORT", 60)
    lengths = [100, 50, 20]
    asked = [ask(engine, " ".join(["t5"] * n), llama.base_version) for n in lengths]
    engine.step()
    assert sizes == [LEAST, 50, 20, 1]
    for row, length in zip(asked, lengths, strict=True):
        expected = llama.generated(llama.base_version, " ".join(["t5"] * length))
        assert answers(engine, [row]) == [expected]
    assert all(row.text for row in rows)


def test_one_of_two_prefills_is_dropped_while_the_other_ends(
    llama: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engine.pace.WORTH", LEAST)
    engine = llama.engine(prefill_tokens=2 * LEAST, max_batch=8)
    prompts = [" ".join(["t5"] * length) for length in (4 * LEAST + 8, 3 * LEAST)]
    stays = ask(engine, prompts[0], llama.base_version, max_tokens=4)
    engine.step()
    dropped = ask(engine, prompts[1], llama.base_version, max_tokens=4)
    engine.step()
    assert engine.running == 2
    engine.drop(engine_id(dropped))
    engine.step()
    assert (engine.running, len(engine._running)) == (1, 1)
    assert "a step failed" not in caplog.text
    assert answers(engine, [stays]) == [llama.generated(llama.base_version, prompts[0], 4)]
    assert len(dropped.events) == 1
    assert engine.room == 8


def test_short_prompts_are_prefilled_together_within_the_bound(llama: Stage) -> None:
    engine = llama.engine(prefill_tokens=12, max_batch=8)
    rows = [ask(engine, f"t5 t6 t7 t{row}", llama.base_version) for row in range(1, 6)]
    engine.step()
    assert [row.started for row in rows] == [True, True, True, False, False]
    assert engine.room == 8 - 5


def test_a_step_computes_prompts_until_its_tokens_are_used(llama: Stage) -> None:
    """Of unlike lengths, so that on a CPU each has a forward of its own."""
    engine = llama.engine(prefill_tokens=165, max_batch=8)
    prompts = [" ".join(["t5"] * length) for length in (50, 90, 20, 70)]
    rows = [ask(engine, prompt, llama.base_version) for prompt in prompts]
    engine.step()
    assert [row.started for row in rows] == [True, True, False, False]
    assert answers(engine, rows) == [llama.generated(llama.base_version, p) for p in prompts]


def test_a_first_token_is_said_before_the_next_ones_are_computed(llama: Stage) -> None:
    rows: list[Listener] = []
    heard: list[list[int]] = []
    engine = llama.engine(said=lambda: heard.append([_tokens(row) for row in rows]))
    rows.append(ask(engine, PROMPTS[0], llama.base_version))
    engine.step()
    rows.append(ask(engine, PROMPTS[1], llama.base_version))
    engine.step()
    assert heard == [[1], [2, 1]]
    assert [_tokens(row) for row in rows] == [3, 2]


def _tokens(listener: Listener) -> int:
    return sum(isinstance(event, TokenEvent) for event in listener.events)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there it costs the process its device")
def test_a_prompt_that_breaks_the_forward_fails_alone(llama: Stage) -> None:
    engine = llama.engine()
    running = ask(engine, PROMPTS[0], llama.base_version)
    engine.step()
    engine._unknown = {}  # else it is refused before
    poison = ask(engine, "t5 t512", llama.base_version)
    engine.step()
    after = ask(engine, PROMPTS[1], llama.base_version)

    texts = answers(engine, [running, after])

    assert poison.problem is not None
    assert poison.problem.status == 503
    assert texts == [llama.generated(llama.base_version, p) for p in PROMPTS[:2]]
    assert not engine.busy


def test_a_token_without_an_embedding_is_refused_by_name(llama: Stage) -> None:
    engine = llama.engine()
    listeners = [ask(engine, prompt, llama.base_version) for prompt in ("t5 t512", PROMPTS[0])]
    assert listeners[0].problem is not None
    assert listeners[0].problem.status == 422
    assert listeners[0].problem.errors[0].field == "/prompt"
    assert "'t512'" in listeners[0].problem.errors[0].reason
    assert answers(engine, listeners[1:]) == [llama.generated(llama.base_version, PROMPTS[0])]


def test_a_version_that_computes_nan_fails_its_own_rows_only(llama: Stage) -> None:
    broken = llama.publish(1, scale=float("inf"))
    engine = llama.engine()
    healthy = ask(engine, PROMPTS[0], llama.base_version)
    sick = ask(engine, PROMPTS[0], broken)
    run_until(engine, lambda: sick.done)
    assert sick.problem is not None
    assert broken in sick.problem.detail
    assert answers(engine, [healthy]) == [llama.generated(llama.base_version, PROMPTS[0])]


def fail_once(engine: Engine, error: Exception) -> None:
    """Make the next forward raise, as a device or memory would."""

    def raise_it(*_: Any) -> None:
        handle.remove()
        raise error

    handle = engine._view.model.register_forward_pre_hook(raise_it)


def test_a_step_that_fails_ends_its_rows_and_the_engine_serves_on(llama: Stage) -> None:
    version = llama.publish(1)
    engine = llama.engine()
    lost = [ask(engine, prompt, version) for prompt in PROMPTS[:3]]
    run_until(engine, lambda: all(row.started for row in lost))

    fail_once(engine, torch.OutOfMemoryError("CUDA out of memory"))
    engine.step()

    assert [row.problem.status for row in lost if row.problem] == [503] * 3
    assert not engine.busy
    [text] = answers(engine, [ask(engine, PROMPTS[3], version)])
    assert text == llama.generated(version, PROMPTS[3])


def test_a_lost_device_is_told_to_the_caller(llama: Stage) -> None:
    engine = llama.engine()
    lost = ask(engine, PROMPTS[0], llama.base_version)
    fail_once(engine, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(DeviceLost, match="illegal memory access"):
        engine.step()
    assert lost.problem is not None


def test_fail_all_ends_everything_at_once(llama: Stage) -> None:
    engine = llama.engine(max_batch=2)
    rows = [ask(engine, prompt, llama.base_version) for prompt in PROMPTS[:4]]
    engine.step()
    engine.fail_all(Unavailable("stopping", retry_after=1), elsewhere=True)
    assert [row.problem.detail for row in rows if row.problem] == ["stopping"] * 4
    engine.step()
    assert not engine.busy
    assert engine.room == 2


def test_a_request_that_cannot_be_begun_is_told_and_no_other_one_lost(
    llama: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever nobody foresaw in a prompt: what was taken with it goes on."""

    def broken(task: GenerateTask, *_: Any) -> list[int]:
        if task.prompt == "t1":
            raise RuntimeError("nobody foresaw it")
        return [1, 2]

    monkeypatch.setattr("worker.engine.engine.beginning", broken)
    engine = llama.engine()
    failing, sound = (ask(engine, prompt, llama.base_version) for prompt in ("t1", "t2"))
    assert failing.problem is not None
    assert (failing.problem.status, failing.problem.detail) == (
        500,
        "the request could not be begun",
    )
    answers(engine, [sound])

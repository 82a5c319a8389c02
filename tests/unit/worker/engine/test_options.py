"""What a request may ask for beside its text, through the whole engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.generation import TokenEvent, TokenLogprob
from tests.device import DEVICE
from tests.tiny_models import TINY, VOCABULARY, tiny_tokenizer
from tests.unit.worker.engine.stage import (
    PROMPTS,
    Listener,
    Stage,
    answers,
    ask,
    generated,
    make_stage,
    run_until,
)
from worker.engine.engine import Engine

STRANGERS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 2.0, "top_p": 0.9, "n": 2},
    {"temperature": 0.5, "top_k": 9, "logprobs": 20},
    {"temperature": 3.0, "min_p": 0.1, "frequency_penalty": 1.0},
    {"repetition_penalty": 1.4, "logit_bias": {5: 2}, "min_tokens": 9},
    {"presence_penalty": -1.0, "logprobs": 0, "n": 2},
]
EVERYTHING: dict[str, Any] = {
    "temperature": 1.4,
    "top_p": 0.95,
    "top_k": 200,
    "min_p": 0.001,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
    "logit_bias": {11: 1.5, 12: -50},
    "min_tokens": 15,
    "max_tokens": 15,
    "seed": 5,
    "logprobs": 3,
}


@pytest.fixture
def llama(registry_path: Path) -> Stage:
    return make_stage("llama", registry_path)


def ids_of(listener: Listener, choice: int = 0) -> list[int]:
    return [one.token_id for one in logprobs_of(listener, choice)]


def logprobs_of(listener: Listener, choice: int = 0) -> list[TokenLogprob]:
    events = [e for e in listener.events if isinstance(e, TokenEvent) and e.choice == choice]
    return [one for event in events for one in event.logprobs or []]


def text_of(listener: Listener, choice: int) -> str:
    events = [e for e in listener.events if isinstance(e, TokenEvent) and e.choice == choice]
    return "".join(event.text for event in events)


@torch.no_grad()
def reference_logprobs(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities [answer, vocabulary] before each of the answer's tokens."""
    ids = torch.tensor([prompt + answer], device=DEVICE)
    logits = model(ids).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1).cpu()


@pytest.mark.parametrize("name", TINY)
def test_options_on_every_architecture(name: str, registry_path: Path) -> None:
    """Of one edited version: penalties and `generate` agree token for token; log-probabilities
    are those of the model's plain forward over the answer; a seed says the same alone and among
    fifteen rows of all options."""
    stage = make_stage(name, registry_path)
    version, prompt = stage.publish(1), PROMPTS[3]
    engine = stage.engine()
    penalised = ask(engine, prompt, version, repetition_penalty=1.3, logprobs=5)
    alone = ask(engine, prompt, version, **EVERYTHING)
    [text, _] = answers(engine, [penalised, alone])
    merged, tokenizer = stage.merged(version), stage.loaded.tokenizer
    assert text == generated(merged, tokenizer, prompt, repetition_penalty=1.3)

    prompt_ids = tokenizer(prompt)["input_ids"]
    for listener, top in ((penalised, 5), (alone, 3)):
        shown = logprobs_of(listener)
        assert " ".join(one.token.strip() for one in shown) == listener.text.strip()
        expected = reference_logprobs(merged, prompt_ids, ids_of(listener))
        for one, row in zip(shown, expected, strict=True):
            assert [t.token_id for t in one.top] == row.topk(top).indices.tolist()
            for token in (one, *one.top):
                assert token.logprob == pytest.approx(float(row[token.token_id]), abs=2e-4)

    engine = stage.engine()
    before = [
        ask(engine, p, stage.base_version, **{"max_tokens": 20, **STRANGERS[i]})
        for i, p in enumerate(PROMPTS)
    ]
    engine.step()
    again = ask(engine, prompt, version, **EVERYTHING)
    after = [ask(engine, PROMPTS[4], version, **one) for one in STRANGERS]
    answers(engine, [again, *before, *after])
    assert ids_of(again) == ids_of(alone)


def test_min_tokens_keeps_every_end_away(llama: Stage) -> None:
    """End of text, stop tokens and stop strings."""
    words = llama.generated(llama.base_version, PROMPTS[0], 12).split()
    third = int(words[2][1:])
    assert words.index(words[2]) == 2
    llama.loaded.model.generation_config.eos_token_id = [0, third]
    engine = llama.engine()
    end = ask(engine, PROMPTS[0], llama.base_version, min_tokens=6)
    token = ask(
        engine, PROMPTS[0], llama.base_version, min_tokens=6, stop_token_ids=[int(words[1][1:])]
    )
    string = ask(engine, PROMPTS[1], llama.base_version, min_tokens=6, stop=["t"])
    answers(engine, [end, token, string])
    assert end.text.split()[:2] == words[:2]
    assert words[2] not in end.text.split()[:6]
    assert words[1] not in token.text.split()[:6]
    assert string.end is not None
    assert (len(string.text.split()), string.end.usage.completion_tokens) == (6, 7)
    assert string.end.finish_reason == "stop"


def test_an_end_of_text_that_is_ignored_is_a_token_like_others(llama: Stage) -> None:
    words = llama.generated(llama.base_version, PROMPTS[0], 12).split()
    llama.loaded.model.generation_config.eos_token_id = [0, int(words[2][1:])]
    engine = llama.engine()
    on = ask(engine, PROMPTS[0], llama.base_version, ignore_eos=True)
    stopped = ask(
        engine,
        PROMPTS[0],
        llama.base_version,
        ignore_eos=True,
        stop_token_ids=[int(words[2][1:])],
    )
    answers(engine, [on, stopped])
    assert on.text.split() == words
    assert stopped.text.split() == words[:2]


def test_choices_are_the_answers_of_seeds_in_a_row(llama: Stage) -> None:
    """Three choices for a batch of two rows: each is what its seed says alone."""
    version = llama.publish(1)
    hot = {"temperature": 2.0, "top_p": 0.95}
    engine = llama.engine(max_batch=2)
    several = ask(engine, PROMPTS[2], version, n=3, seed=70, logprobs=0, **hot)
    run_until(engine, lambda: len(ends(several)) == 3)
    assert not engine.busy
    single = [ask(engine, PROMPTS[2], version, seed=70 + i, **hot) for i in range(3)]
    texts = answers(engine, single)
    assert [text_of(several, i) for i in range(3)] == texts
    assert len(set(texts)) == 3
    assert [event.type for event in several.events].count("start") == 1
    assert [end.usage.completion_tokens for end in ends(several)] == [12] * 3
    assert [len(ids_of(several, i)) for i in range(3)] == [12] * 3


def ends(listener: Listener) -> list[Any]:
    return [event for event in listener.events if event.type == "end"]


def test_choices_compute_their_prompt_once(llama: Stage) -> None:
    engine = llama.engine(prefill_tokens=16)
    sizes = []
    engine._view.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    listener = ask(engine, "t5 " * 20, llama.base_version, n=4, max_tokens=3)
    run_until(engine, lambda: len(ends(listener)) == 4)
    assert sizes == [(1, 16), (1, 4), (4, 1), (4, 1)]
    expected = llama.generated(llama.base_version, "t5 " * 20, 3)
    assert [text_of(listener, i) for i in range(4)] == [expected] * 4


def test_choices_wait_as_one_prompt(llama: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = llama.engine()
    burst, seen = engine._pace.burst, list[list[int]]()

    def noting(running: int, lengths: list[int]) -> int:
        seen.append(lengths)
        return burst(running, lengths)

    monkeypatch.setattr(engine._pace, "burst", noting)
    ask(engine, "t5 " * 20, llama.base_version, n=4)
    ask(engine, "t5 " * 30, llama.base_version)
    engine.step()
    assert seen == [[20, 30]]


def test_a_choice_that_fails_ends_its_request(llama: Stage) -> None:
    broken = llama.publish(1, scale=float("inf"))
    engine = llama.engine(max_batch=2)
    listener = ask(engine, PROMPTS[0], broken, n=3)
    run_until(engine, lambda: not engine.busy)
    assert [event.type for event in listener.events] == ["start", "error"]


def test_a_started_request_waits_for_the_rows_of_its_other_choices(llama: Stage) -> None:
    """Its deadline is for the start: nobody reads half an answer."""
    engine = llama.engine(max_batch=1)
    listener = ask(engine, PROMPTS[0], llama.base_version, n=2, deadline=0.5, max_tokens=100)
    run_until(engine, lambda: len(ends(listener)) == 2, pause=0.01)


@pytest.mark.parametrize("token", [VOCABULARY, VOCABULARY + 1, 2**31 - 1])
def test_a_bias_for_no_token_of_the_model_is_refused(llama: Stage, token: int) -> None:
    engine: Engine = llama.engine()
    listener = ask(engine, PROMPTS[0], llama.base_version, logit_bias={token: 1.0})
    assert listener.problem is not None
    assert listener.problem.errors[0].field == f"/logit_bias/{token}"


def test_characters_of_several_tokens_come_with_the_logprobs_of_all_of_them(
    registry_path: Path,
) -> None:
    """Biases make the model say a text whose characters are split; each event has whole
    characters, and log-probabilities of just the tokens that spell them."""
    tokenizer = tiny_tokenizer()
    stage = make_stage("llama", registry_path, tokenizer)
    answer = tokenizer("a→🗼é b")["input_ids"]
    assert len(answer) > 8
    engine = stage.engine()
    listener = ask(engine, "The", stage.base_version, max_tokens=len(answer), logprobs=2)
    script(engine, answer)
    answers(engine, [listener])
    assert listener.text == "a→🗼é b"
    assert ids_of(listener) == answer
    for event in listener.events:
        if isinstance(event, TokenEvent):
            spelled = [one.token_id for one in event.logprobs or []]
            assert tokenizer.decode(spelled) == event.text


def script(engine: Engine, answer: list[int]) -> None:
    """Make the model say these tokens."""
    said = iter(answer)

    def say(_module: Any, _args: Any, out: Any) -> Any:
        out.logits[:, -1, next(said)] = 100.0
        return out

    engine._view.model.register_forward_hook(say)

"""Sampling is transformers' own, and repeats by seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from contracts.generation import Sampling
from tests.unit.worker.engine.stage import PROMPTS, Stage, answers, ask, generated, make_stage
from worker.engine.sampling import Sampler

CPU = torch.device("cpu")
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 3.0, "top_p": 0.6},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.4},
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    return make_stage("llama", tmp_path_factory.mktemp("registry"))


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_draws_of_a_seed_are_those_of_generate(stage: Stage, settings: dict[str, Any]) -> None:
    """Our generator, seeded, gives the numbers of the global one, which `generate` uses."""
    engine = stage.engine()
    listener = ask(engine, PROMPTS[0], stage.base_version, seed=11, **settings)
    reference_settings = {"top_k": 0, **settings, "do_sample": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model, tokenizer = stage.merged(stage.base_version), stage.loaded.tokenizer
        reference = generated(model, tokenizer, PROMPTS[0], **reference_settings)

    assert answers(engine, [listener]) == [reference]


def test_a_seeded_answer_is_the_same_alone_and_among_strangers(stage: Stage) -> None:
    version = stage.base_version
    hot = {"temperature": 2.0, "top_p": 0.95, "max_tokens": 20}
    engine = stage.engine()
    [alone] = answers(engine, [ask(engine, PROMPTS[1], version, seed=5, **hot)])

    engine = stage.engine()
    strangers = [ask(engine, p, version, seed=i, **hot) for i, p in enumerate(PROMPTS)]
    engine.step()
    same = ask(engine, PROMPTS[1], version, seed=5, **hot)
    other = ask(engine, PROMPTS[1], version, seed=6, **hot)
    texts = answers(engine, [same, other, *strangers])

    assert texts[0] == alone
    assert texts[1] != alone


def test_without_a_seed_answers_differ(stage: Stage) -> None:
    engine = stage.engine()
    hot = [ask(engine, PROMPTS[0], stage.base_version, temperature=5.0) for _ in range(3)]
    assert len(set(answers(engine, hot))) == 3


@pytest.mark.parametrize("penalty", [0.5, 1.3, 5.0])
def test_greedy_with_a_repetition_penalty_is_generates(stage: Stage, penalty: float) -> None:
    """The penalty counts the prompt's tokens too."""
    engine = stage.engine()
    listener = ask(engine, PROMPTS[4], stage.base_version, repetition_penalty=penalty)
    reference = generated(
        stage.loaded.model, stage.loaded.tokenizer, PROMPTS[4], repetition_penalty=penalty
    )
    assert answers(engine, [listener]) == [reference]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1e-300},
        {"temperature": 1e-4},
        {"temperature": 10.0, "repetition_penalty": 1e-300},
        {"temperature": 1.0, "repetition_penalty": 1e-30},
        {"temperature": 1.0, "repetition_penalty": 10.0, "top_p": 1e-9, "top_k": 1000},
    ],
)
def test_no_admissible_setting_can_break_the_draw(settings: dict[str, float]) -> None:
    sampler = Sampler(Sampling(seed=1, **settings), CPU)
    logits = torch.tensor([0.0, -3.0, 90.0, 2.0, -0.0])
    assert sampler.choose([0, 1, 2, 4], logits) in range(5)


def test_a_tiny_temperature_is_greedy() -> None:
    logits = torch.tensor([1.0, 1.001, 0.5])
    draws = {Sampler(Sampling(temperature=1e-5), CPU).choose([0], logits) for _ in range(20)}
    assert draws == {1}

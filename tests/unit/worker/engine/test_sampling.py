"""The sampler draws from the distribution that transformers' own processors make of the logits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from contracts.sampling import Sampling
from tests.device import DEVICE
from worker.engine.drawing import CANDIDATES, Draws, _draw_of_largest, draw, largest
from worker.engine.noise import Gumbel
from worker.engine.sampling import Chosen, Row, Sampler

VOCABULARY = 6000
"""More than the candidates, and no multiple of anything."""
PROMPT = [5, 9, 5, 2999, 17]
ENDS = [0, 40]
LIKELY = [0, 5, 9, 17, 40, 2999, 21, 22]
"""Tokens that come again and again, of the prompt, of the ends, and others."""
BIAS = {7: 3.0, 9: -100.0, 2999: 2.5, 0: 4.0}
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.0, "top_k": -1, "top_p": 0.3},
    {"temperature": 3.0, "top_p": 0.6},
    {"temperature": 8.0, "top_p": 0.95},
    {"temperature": 5.0, "top_k": 900, "top_p": 0.8},
    {"temperature": 1.3, "min_p": 0.05},
    {"temperature": 6.0, "min_p": 0.02, "top_p": 0.9},
    {"temperature": 6.0, "min_p": 0.2, "top_p": 0.9},
    {"temperature": 6.0, "min_p": 0.01, "top_k": 700, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.4},
    {"temperature": 1.0, "presence_penalty": 1.5, "frequency_penalty": 0.75},
    {"temperature": 1.0, "presence_penalty": -2, "frequency_penalty": -2, "top_k": 3},
    {"temperature": 1.0, "logit_bias": BIAS, "min_tokens": 2},
    {
        "temperature": 0.8,
        "top_p": 0.9,
        "top_k": 100,
        "min_p": 0.01,
        "repetition_penalty": 0.8,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": BIAS,
        "min_tokens": 3,
    },
]
GREEDY: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.7},
    {"frequency_penalty": 1.1, "presence_penalty": 0.3},
    {"logit_bias": BIAS, "min_tokens": 4, "repetition_penalty": 3.0},
]


class AnswerPenalties(LogitsProcessor):
    """What OpenAI documents: count × frequency + [count > 0] × presence off each logit."""

    def __init__(self, sampling: Sampling, prompt_length: int) -> None:
        self._sampling = sampling
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for token, count in Counter(input_ids[0, self._prompt_length :].tolist()).items():
            scores[0, token] -= (
                count * self._sampling.frequency_penalty + self._sampling.presence_penalty
            )
        return scores


def processors(sampling: Sampling, prompt: list[int], ends: list[int]) -> LogitsProcessorList:
    """Those of transformers in vLLM's order."""
    found: list[LogitsProcessor] = []
    if sampling.logit_bias:
        bias = [[[token], value] for token, value in sampling.logit_bias.items()]
        found.append(SequenceBiasLogitsProcessor(bias))
    if sampling.min_tokens:
        found.append(
            MinNewTokensLengthLogitsProcessor(
                len(prompt), sampling.min_tokens, ends, device=str(DEVICE)
            )
        )
    found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    found.append(AnswerPenalties(sampling, len(prompt)))
    if sampling.temperature:
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    if sampling.top_k > 0:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList(found)


def some_logits(seed: int, rows: int = 1, spread: float = 3.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(rows, VOCABULARY, generator=draw)).to(DEVICE)


def sampler_of(*settings: dict[str, Any], prompt: list[int] = PROMPT) -> Sampler:
    rows = [Row(Sampling(**{"seed": 3, **one}), 0, prompt, ENDS) for one in settings]
    return Sampler(rows, DEVICE)


def wandering(seed: int, step: int) -> torch.Tensor:
    """Logits [1, vocabulary] of a step: of each seed others, and not quite those of the last."""
    logits = some_logits(seed) + 0.3 * some_logits(1000 + 31 * seed + step)
    logits[0, LIKELY] += 6
    return logits


@pytest.mark.parametrize("settings", [*SETTINGS, *GREEDY], ids=str)
def test_the_draw_is_from_what_the_processors_leave(settings: dict[str, Any]) -> None:
    """The same noise on the processors' scores has its maximum at the same token: so all that the
    processors give a probability has it here, and nothing else. Eight steps of 24 seeds."""
    sampling = Sampling(**{"seed": 0, **settings})
    given = processors(sampling, PROMPT, ENDS)
    for seed in range(24):
        sampler = sampler_of({**settings, "seed": seed})
        ids = list(PROMPT)
        for step in range(8):
            logits = wandering(seed, step)
            scores = given(torch.tensor([ids], device=DEVICE), logits.clone())
            if sampling.temperature:
                noise = Gumbel(*(torch.tensor([x], device=DEVICE) for x in (seed, step)))
                scores += noise.of(torch.arange(VOCABULARY, device=DEVICE))
            [token] = sampler.choose(logits).tokens
            assert token == int(scores.argmax())
            ids.append(token)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_an_accelerators_way_draws_the_same(spread: float) -> None:
    """There all scores are sorted; here most rows are cut among their largest, or unsorted."""
    rows = 64
    draw_of = torch.Generator().manual_seed(1)
    draws = Draws(
        seed=torch.arange(rows),
        step=torch.arange(rows) % 7,
        top_k=torch.tensor([0, 3, 300, 100]).repeat(16),
        top_p=torch.rand(rows, generator=draw_of).clamp(min=0.1),
        min_p=torch.tensor([0.0, 0.0, 0.2, 0.01]).repeat_interleave(16),
        any_bounded=True,
        widest=300,
    )
    scores = some_logits(3, rows, spread).cpu()
    sorted_whole, _ = _draw_of_largest(scores, draws, VOCABULARY)
    assert torch.equal(draw(scores, draws), sorted_whole)


def test_frequencies_are_the_probabilities() -> None:
    """Pearson's χ² of 40,000 draws over 12 tokens, at one seed a draw: 31.3 is passed in one of
    1,000 cases."""
    draws = 40_000
    logits = torch.full((1, VOCABULARY), -torch.inf, device=DEVICE)
    logits[0, 100:112] = some_logits(1)[0, :12] / 3
    sampling = {"temperature": 1.7, "repetition_penalty": 1.2}
    rows = [Row(Sampling(seed=seed, **sampling), 0, [103, 105], ENDS) for seed in range(draws)]
    found: Counter[int] = Counter()
    for start in range(0, draws, 2000):
        sampler = Sampler(rows[start : start + 2000], DEVICE)
        found.update(sampler.choose(logits.expand(2000, -1)).tokens)

    scores = logits.cpu()[0].double()
    for token in (103, 105):
        scores[token] = scores[token] / 1.2 if scores[token] > 0 else scores[token] * 1.2
    expected = draws * (scores / 1.7).softmax(-1)
    assert set(found) == set(range(100, 112))
    deviation = sum((found[t] - expected[t]) ** 2 / expected[t] for t in found)
    assert deviation < 31.3


def test_a_row_is_alone_in_its_batch() -> None:
    """Rows of all options join, leave and change places; each says what it says alone."""
    settings = [{**one, "seed": place} for place, one in enumerate([*SETTINGS, *GREEDY])]
    prompts = [PROMPT[: 1 + place % 5] * (1 + place % 3) for place in range(len(settings))]
    steps = 9

    alone: dict[int, list[int]] = {}
    for place, one in enumerate(settings):
        sampler = sampler_of(one, prompt=prompts[place])
        alone[place] = [sampler.choose(wandering(place, step)).tokens[0] for step in range(steps)]

    batch, members = Sampler([], DEVICE), list[int]()
    together: dict[int, list[int]] = {place: [] for place in alone}
    waiting = list(alone)
    while waiting or members:
        for _ in range(min(3, len(waiting))):
            place = waiting.pop(0)
            batch.join(sampler_of(settings[place], prompt=prompts[place]))
            members.append(place)
        logits = torch.cat([wandering(place, len(together[place])) for place in members])
        for place, token in zip(members, batch.choose(logits).tokens, strict=True):
            together[place].append(token)
        stay = [row for row, place in enumerate(members) if len(together[place]) < steps]
        stay.reverse()
        batch.keep(stay)
        members = [members[row] for row in stay]
    assert together == alone


def test_what_rows_said_is_forgotten_with_them() -> None:
    """Else an engine that is never idle would grow."""
    penalised = {"repetition_penalty": 1.1}
    batch = sampler_of({}, prompt=[5] * 9)
    for _ in range(20):
        batch.join(sampler_of(penalised, penalised, prompt=[5] * 50))
        batch.choose(some_logits(0, 3))
        batch.keep([0, 2])
        batch.choose(some_logits(0, 2))
        batch.keep([1])
        assert batch._past.shape == batch._said.shape == (1, 52)


def test_without_a_seed_draws_differ() -> None:
    rows = [Row(Sampling(temperature=5.0), 0, PROMPT, ENDS)] * 4
    tokens = Sampler(rows, DEVICE).choose(some_logits(0).expand(4, -1)).tokens
    assert len(set(tokens)) == 4


def test_a_choice_has_the_seed_of_its_number() -> None:
    hot = {"temperature": 5.0}
    logits = some_logits(0).expand(3, -1)
    choices = [Row(Sampling(seed=2**63 - 2, n=3, **hot), i, PROMPT, ENDS) for i in range(3)]
    singles = [Row(Sampling(seed=s, **hot), 0, PROMPT, ENDS) for s in (2**63 - 2, 2**63 - 1, 0)]
    tokens = [Sampler(rows, DEVICE).choose(logits).tokens for rows in (choices, singles)]
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) == 3


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0, "logit_bias": {3: 50}}])
def test_logprobs_are_the_models_own_whatever_the_options(settings: dict[str, Any]) -> None:
    """Twelve rows of which some want none, some the token's alone, some 20 beside it."""
    wanted = [None, 0, 20]
    sampler = sampler_of(*({**settings, "logprobs": wanted[row % 3]} for row in range(12)))
    logits = some_logits(4, 12)
    chosen = sampler.choose(logits)
    assert chosen.logprobs is not None
    reference = logits.double().log_softmax(-1).cpu()
    likeliest = reference.topk(20)
    for row, (token, pairs) in enumerate(zip(chosen.tokens, chosen.logprobs, strict=True)):
        ids, values = zip(*pairs, strict=True)
        assert ids == (token, *likeliest.indices[row].tolist())
        expected = reference[row, list(ids)].float()
        torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-5, atol=1e-5)


def test_no_row_that_wants_logprobs_costs_nothing() -> None:
    assert sampler_of({}, {}).choose(some_logits(0, 2)).logprobs is None


@pytest.mark.parametrize("size", [10, 511, 5000, 49_152])
@pytest.mark.parametrize("count", [1, 20, CANDIDATES, 5000])
def test_the_largest_are_found_without_a_sort(size: int, count: int) -> None:
    """Also among equal scores, and at the very end of the vocabulary."""
    count = min(count, size)
    scores = torch.randn(3, size, generator=torch.Generator().manual_seed(size)).to(DEVICE)
    scores[1] = scores[1].round()
    scores[2, -1] = 100.0
    values, places = largest(scores, count)
    assert torch.equal(values, scores.sort(-1, descending=True).values[:, :count])
    assert torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == count for row in places.tolist())


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1e-300},
        {"temperature": 1e-4},
        {"temperature": 10.0, "repetition_penalty": 1e-300},
        {"temperature": 1.0, "repetition_penalty": 1e-30},
        {"temperature": 1.0, "repetition_penalty": 10.0, "top_p": 1e-9, "top_k": 1000},
        {"temperature": 1.0, "top_p": 1e-300, "min_p": 1.0},
        {"temperature": 1.0, "min_p": 1e-300, "min_tokens": 1},
    ],
)
def test_no_admissible_setting_can_break_the_draw(settings: dict[str, float]) -> None:
    logits = torch.tensor([[0.0, -3.0, 90.0, 2.0, -0.0]], device=DEVICE)
    row = Row(Sampling(seed=1, **settings), 0, [0, 1, 2, 4], [3])
    assert Sampler([row], DEVICE).choose(logits).tokens[0] in range(5)


def test_a_row_that_is_not_finite_harms_no_other() -> None:
    settings = {"temperature": 1.0, "top_p": 0.9, "logprobs": 3, "seed": 8}
    logits = some_logits(2, 3)
    whole = sampler_of(settings, settings, settings).choose(logits)
    logits[1] = torch.nan
    broken = sampler_of(settings, settings, settings).choose(logits)
    assert (whole.finite, broken.finite) == ([True] * 3, [True, False, True])
    assert outer(whole) == outer(broken)


def outer(chosen: Chosen) -> list[Any]:
    assert chosen.logprobs is not None
    return [*chosen.tokens[::2], *chosen.logprobs[::2]]


def test_a_tiny_temperature_is_greedy() -> None:
    logits = torch.tensor([[1.0, 1.001, 0.5]], device=DEVICE)
    tiny = [Row(Sampling(temperature=1e-5), 0, [0], [2])] * 20
    assert set(Sampler(tiny, DEVICE).choose(logits.expand(20, -1)).tokens) == {1}

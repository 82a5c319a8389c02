"""Calibration on tiny models: what it traces and measures, and that it goes on after a stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memit_core.cache import MemoryCache
from memit_core.calibrate.calibration import calibrate
from memit_core.calibrate.causal_trace import PLACES, Tracer, decode_trace
from memit_core.calibrate.heat_map import draw_heat_map
from memit_core.calibrate.notebook import Notebook
from memit_core.calibrate.records import packaged_records, users_records
from memit_core.calibrate.scales import Scale, Settings, measure_scales
from memit_core.calibrate.trial import Bench, Outcome
from memit_core.calibrate.verdict import verdict
from memit_core.edit import Editor
from memit_core.errors import Cancelled
from memit_core.facts import Fact
from memit_core.hparams import from_dict, from_file
from memit_core.loading import LoadedModel
from memit_core.preset import STANDARD
from memit_core.solve import Solver
from memit_core.tokens import prompt_row
from tests.tiny_models import TEXT
from tests.unit.memit_core.examples import loaded_tiny

CORPUS = TEXT * 8
FACTS = [record.fact for record in packaged_records()[:4]]
STEP = Settings(layers=(1, 2), old_memory=0.5, clamp=0.75, step=0.3, steps=25)
SCALES = {layer: Scale(state=40.0, leverage=100.0) for layer in range(4)}
GOOD = Outcome(
    facts=50,
    efficacy=1.0,
    paraphrase=0.95,
    neighborhood=0.7,
    said=0.98,
    soft=0.9,
    perplexity_ratio=1.01,
    kl=0.01,
    z_seconds=50.0,
    seconds=20.0,
)
UNEDITED = replace(GOOD, efficacy=0.2, paraphrase=0.2, said=0.0, neighborhood=0.71)


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return loaded_tiny("llama")


# the packaged facts


def test_the_packaged_facts_are_many_and_of_many_kinds() -> None:
    records = packaged_records()
    assert len(records) >= 100
    assert len({record.fact.prompt for record in records[:26]}) >= 10
    assert len({record.fact.subject for record in records}) == len(records)


def test_neighbours_are_never_edited_and_new_objects_never_true() -> None:
    records = packaged_records()
    edited = {record.fact.filled for record in records}
    for record in records:
        assert record.fact.target_new != record.fact.target_true
        assert record.neighbors
        assert record.paraphrases
        assert not edited & {prompt for prompt, _ in record.neighbors}


def test_a_users_fact_gets_what_it_lacks(llama: LoadedModel) -> None:
    bare = Fact("Anna Keller", "{} was born in", "Rome")
    whole = replace(
        bare,
        target_true="Geneva",
        paraphrase_prompts=("Of Anna:",),
        neighborhood_prompts=("Bo is",),
    )
    first, second = users_records(llama.runnable(), [bare, whole])
    assert first.fact.target_true
    assert first.neighbors
    assert first.paraphrases[0].endswith("Anna Keller was born in")
    assert second.paraphrases == ("Of Anna:",)
    assert second.neighbors == (("Bo is", "Geneva"),)


# causal tracing


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3", "gptj"])
def test_what_is_put_back_at_the_end_brings_the_whole_answer_back(family: str) -> None:
    tracer = Tracer(loaded_tiny(family).runnable(), FACTS)
    for fact in FACTS:
        tracer.add(fact)
    trace = tracer.trace()
    last_state = trace.effects["state"][PLACES.index("last token")][-1]
    assert trace.facts == len(FACTS)
    assert trace.clean > trace.corrupted
    assert last_state == pytest.approx(trace.clean - trace.corrupted, rel=1e-3)


def test_a_trace_is_read_back_and_drawn(llama: LoadedModel, tmp_path: Path) -> None:
    tracer = Tracer(llama.runnable(), FACTS)
    tracer.add(FACTS[0])
    trace = tracer.trace()
    assert decode_trace(trace.encode()) == trace
    draw_heat_map(tmp_path / "map.png", "tiny", trace, (1, 2))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_tracing_leaves_the_model_as_it_was(llama: LoadedModel) -> None:
    base = llama.runnable()
    ids = torch.tensor([prompt_row(base.tokenizer, FACTS[0]).ids])
    before = base.view(input_ids=ids).logits
    Tracer(base, FACTS).add(FACTS[0])
    assert torch.equal(base.view(input_ids=ids).logits, before)


# scales


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_scales_are_the_models_own(family: str) -> None:
    loaded = loaded_tiny(family)
    width = loaded.structure.intermediate
    random = torch.Generator().manual_seed(0)
    root = torch.randn(width, width, generator=random, dtype=torch.float64)
    c = root @ root.T + torch.eye(width)
    fact = Fact("Anna Keller", "In 1931 {} was born in", "Rome")
    scales = measure_scales(
        loaded.runnable(), [fact], {1: Solver(c, loaded.device), 2: Solver(c, loaded.device)}
    )
    view = loaded.runnable().view
    row = prompt_row(loaded.tokenizer, fact)
    keys: list[torch.Tensor] = []
    module = view.get_submodule(loaded.structure.projections[1])
    module.register_forward_pre_hook(lambda _m, args: keys.append(args[0].reshape(-1, width)))
    states = view(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states
    k = keys[0][row.lookup].double()
    assert scales[1].state == pytest.approx(float(states[2][0, row.lookup].norm()), rel=1e-4)
    assert scales[1].leverage == pytest.approx(float(k @ torch.linalg.solve(c, k)), rel=1e-4)
    assert set(scales) == {1, 2}


def test_the_same_settings_on_a_model_of_twice_the_scale() -> None:
    small = STEP.hparams(SCALES, 64, through_norm=False, n_tokens=500)
    twice = {layer: Scale(2 * s.state, 2 * s.leverage) for layer, s in SCALES.items()}
    large = STEP.hparams(twice, 64, through_norm=False, n_tokens=500)
    assert small.v_lr == pytest.approx(0.3 * 40 / 8)
    assert small.mom2_update_weight == pytest.approx(50)
    assert large.v_lr == 2 * small.v_lr
    assert large.v_weight_decay == 2 * small.v_weight_decay
    assert large.mom2_update_weight == 2 * small.mom2_update_weight
    assert large.clamp_norm_factor == small.clamp_norm_factor
    assert STEP.hparams(twice, 64, through_norm=True, n_tokens=500).v_lr == 0.3


# the notebook


def test_what_was_measured_is_read_back_with_the_time_it_took() -> None:
    cache, calls = MemoryCache(), []
    first = Notebook(cache, 100.0)
    assert first.once(["a", 1], lambda: calls.append(1) or [1, 2.5]) == [1, 2.5]
    again = Notebook(cache, 100.0)
    assert again.once(["a", 1], lambda: calls.append(1) or [1, 2.5]) == [1, 2.5]
    assert again.once(["a", 2], lambda: calls.append(1) or "other") == "other"
    assert len(calls) == 2
    assert first.spent > 0
    assert again.spent > first.spent


# trials


def test_a_trial_shares_the_covariance_and_measures_as_an_editor_of_its_own_would(
    llama: LoadedModel,
) -> None:
    hparams = replace(STANDARD, layers=(1,), mom2_update_weight=5.0, mom2_n_tokens=700)
    bench = Bench(llama, CORPUS, MemoryCache(), range(3), 700)
    bench.preparation.everything_but_decoders()
    shared = bench.editor(hparams).preparation
    alone = Editor(llama, hparams, corpus=CORPUS).preparation
    assert shared.covariance()[1] is bench.preparation.covariance()[1]
    assert torch.equal(shared.covariance()[1], alone.covariance()[1])
    assert shared.contexts() == alone.contexts()
    assert set(shared.covariance()) == {1}


def test_other_text_counts_for_more_facts_than_were_tried() -> None:
    assert GOOD.utility(50) < GOOD.soft
    assert GOOD.utility(500) < GOOD.utility(50)
    assert GOOD.utility(10) == GOOD.utility(50)


# the whole


def test_a_calibration_that_was_broken_off_goes_on_where_it_was(
    llama: LoadedModel, tmp_path: Path
) -> None:
    kept, trials = MemoryCache(), 0

    def stop(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        nonlocal trials
        trials += stage == "calibrate"
        if trials > 6:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        calibrate(llama, FACTS, minutes=0.1, corpus=CORPUS, cache=kept, progress=stop)
    whole = calibrate(llama, FACTS, minutes=0.1, corpus=CORPUS, cache=kept)
    again = calibrate(llama, FACTS, minutes=0.1, corpus=CORPUS, cache=kept)
    assert whole.preset["calibration"]["table"] == again.preset["calibration"]["table"]
    assert whole.hparams == again.hparams
    stages = {row["stage"] for row in whole.preset["calibration"]["table"]}
    assert stages == {"layers", "z", "many"}
    file = tmp_path / "hparams.json"
    file.write_text(json.dumps(whole.preset, allow_nan=False))
    assert from_file(file) == whole.hparams == from_dict(whole.preset["hparams"])
    assert whole.preset["match"]["model_type"] == "llama"
    assert whole.verdict


@pytest.mark.parametrize(
    ("many", "words"),
    [
        (GOOD, "takes 50 facts at once, and other knowledge hardly suffers"),
        (replace(GOOD, said=0.2), "cannot be relied on"),
        (replace(GOOD, said=0.7), "most of 50 facts"),
        (replace(GOOD, perplexity_ratio=1.2), "up to about 12"),
        (replace(GOOD, neighborhood=0.5), "other knowledge suffers"),
        (replace(GOOD, said=0.7), "10 at once were learned better: 98%"),
    ],
)
def test_the_verdict_says_what_to_expect(many: Outcome, words: str) -> None:
    assert words in " ".join(verdict(UNEDITED, many, replace(GOOD, facts=10)))

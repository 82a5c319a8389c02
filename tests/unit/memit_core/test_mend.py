"""MEND on tiny models: gradients against autograd, what training brings, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch.nn import functional

from memit_core.edit import Editor
from memit_core.errors import Cancelled, InvalidFact, MemitError, UnknownOption
from memit_core.evaluate import ControlText, Drift
from memit_core.facts import Fact
from memit_core.loading import LoadedModel, adopt_model
from memit_core.methods import Mend
from memit_core.methods.mend import checkpoint, trained
from memit_core.methods.mend.gradients import Tokens, token_gradients
from memit_core.methods.mend.network import LEARNING_RATE, TINY, Network
from memit_core.methods.mend.reach import changed_matrices, first_block
from memit_core.methods.mend.sums import RankOnes
from memit_core.methods.mend.trained import load_trained
from memit_core.methods.mend.trainer import Options, Outcome, train
from memit_core.methods.mend.upper import Upper
from memit_core.mlp import Shape
from memit_core.progress import silent
from memit_core.target_scores import score_targets
from memit_core.tokens import Row, target_row
from memit_core.weights import Dense, LowRank
from tests.device import DEVICE
from tests.synthetic_world import Edit
from tests.tiny_models import TEXT, tiny_model, tiny_tokenizer
from tests.tiny_models import TINY as FAMILIES
from tests.trained_models import the_world, trained_model
from tests.unit.memit_core.examples import FACTS, loaded_tiny

Updates = dict[str, tuple[torch.Tensor, torch.Tensor]]
SHORT = Options(steps=20, rank=16, look_steps=5, rate=1e-3)
LIMITS = {"bloom": 1e-6, "gpt_neo": 1e-5}
"""How far a gradient may be from autograd's, by norm; these two round to float32 on the way."""
UNPADDED = ("gemma2",)
"""Families whose padding transformers makes NaN in float64, though not in float32."""
LONG = Options(steps=150, rank=64, look_steps=25, rate=1e-3)


def in_float64(family: str) -> LoadedModel:
    return adopt_model(tiny_model(family).double().to(DEVICE), tiny_tokenizer(), name=family)


def rows_of(loaded: LoadedModel) -> list[Row]:
    return [target_row(loaded.tokenizer, fact) for fact in FACTS]


def seen(loaded: LoadedModel, rows: Sequence[Row]) -> Tokens:
    upper = Upper(loaded.runnable(), first_block(loaded))
    return token_gradients(upper, rows, changed_matrices(loaded))


def autograd(family: str, rows: Sequence[Row], paths: Sequence[str]) -> dict[str, torch.Tensor]:
    """Gradients of the sum over rows of their targets' mean loss, as the weights lie."""
    model = tiny_model(family).double().to(DEVICE)
    weights = [model.get_submodule(path).weight.requires_grad_() for path in paths]
    loss = torch.zeros((), dtype=torch.float64, device=DEVICE)
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids], device=DEVICE), use_cache=False).logits[0]
        targets = torch.tensor(row.targets, device=DEVICE)
        loss = loss + functional.cross_entropy(logits[list(row.target_positions)], targets)
    return dict(zip(paths, torch.autograd.grad(loss, weights), strict=True))


def summed(updates: Sequence[Updates]) -> dict[str, torch.Tensor]:
    """ΔW of every matrix."""
    return {
        path: sum((one[path][0] @ one[path][1].T).detach() for one in updates)
        for path in updates[0]
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_network_descends_the_gradient(family: str) -> None:
    loaded = in_float64(family)
    rows, matrices = rows_of(loaded), changed_matrices(loaded)
    assert set(loaded.structure.projections[1:]) < set(matrices)
    assert len(matrices) in (6, 9)
    network = Network(matrices, 8).double().to(DEVICE)
    rate = float(network.rates.detach()[0])
    assert rate == pytest.approx(LEARNING_RATE)
    batches = [[row] for row in rows] if family in UNPADDED else [rows]
    changes = summed([network.updates(seen(loaded, batch)) for batch in batches])
    for path, gradient in autograd(family, rows, list(matrices)).items():
        change = changes[path].T if loaded.structure.transposed else changes[path]
        assert (change + rate * gradient).norm() < LIMITS.get(family, 1e-9) * rate * gradient.norm()


def test_what_is_seen_normalises_each_entry_over_the_matrices_of_a_shape() -> None:
    loaded = in_float64("llama")
    rows, matrices = rows_of(loaded), changed_matrices(loaded)
    network = Network(matrices, 8).double().to(DEVICE)
    for part in (rows[:2], rows[2:]):
        network.observe(seen(loaded, part))
    tokens = seen(loaded, rows)
    alike = [path for path in matrices if path.endswith("down_proj")]
    beside = torch.cat([torch.cat(tokens[path], dim=-1) for path in alike])
    deviation, mean = torch.std_mean(beside, dim=0)
    x, g = tokens[alike[0]]
    width = x.shape[-1]
    scaled_x = (x - mean[:width]) / (deviation[:width] + TINY)
    scaled_g = (g - mean[width:]) / (deviation[width:] + TINY)
    left, right = network.updates(tokens)[alike[0]]
    expected = -network.rates.detach()[0] * scaled_g.T @ scaled_x
    torch.testing.assert_close((left @ right.T).detach(), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("columns", [2, 30])
def test_rank_ones_add_up_to_the_smaller_form(columns: int) -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [
        (torch.randn(6, columns, generator=draw), torch.randn(9, columns, generator=draw))
        for _ in range(3)
    ]
    total = RankOnes(Shape(inputs=9, outputs=6))
    for left, right in parts[: 1 if columns == 2 else 3]:
        total.add(left, right)
    expected = sum(left @ right.T for left, right in parts[: 1 if columns == 2 else 3])
    delta = total.delta()
    assert isinstance(delta, LowRank if columns == 2 else Dense)
    torch.testing.assert_close(delta.matrix(torch.device("cpu")), expected)


# Training on a model that knows a small world


def facts_of(edits: Sequence[Edit]) -> list[Fact]:
    return [
        Fact(
            edit.person,
            edit.relation.wordings[0],
            edit.new,
            the_world().object(edit.person, edit.relation),
            tuple(wording.format(edit.person) for wording in edit.relation.wordings[1:]),
        )
        for edit in edits
    ]


TRAINED_ON = the_world().edits(60, seed=1)
UNSEEN = the_world().edits(10, seed=2, but=TRAINED_ON)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return trained_model("llama")


@pytest.fixture(scope="module")
def done(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("mend") / "new"
    return train(loaded, facts_of(TRAINED_ON), the_world().text, folder, LONG)


def editor_with(loaded: LoadedModel, file: Path) -> Editor:
    return Editor(loaded, corpus=the_world().text, network=file)


@pytest.fixture
def mend(loaded: LoadedModel, done: Outcome) -> Mend:
    return Mend(editor_with(loaded, done.file))


def test_training_lowers_the_loss_of_facts_that_it_does_not_see(done: Outcome) -> None:
    edit, locality = done.standing.best
    assert edit < 0.5 * done.standing.before[0]
    assert locality < 0.1
    assert done.standing.best_step > 0


def test_unseen_facts_are_written_and_other_text_stays(loaded: LoadedModel, mend: Mend) -> None:
    editor = mend._editor
    control, drifts = ControlText(editor.base, the_world().text), list[Drift]()
    written_in_all_wordings = 0
    for fact in facts_of(UNSEEN):
        written = editor.model_with(mend.solve([fact], mend.options([fact], {}), silent))
        asked = [(p, fact.target_new) for p in (fact.filled, *fact.paraphrase_prompts)]
        before = score_targets(editor.base, asked)
        after = score_targets(written, asked)
        assert all(one.p < 0.1 for one in before)
        written_in_all_wordings += all(one.p > 0.5 for one in after)
        drifts.append(control.drift(written))
    assert written_in_all_wordings >= 8
    assert max(drift.perplexity_ratio for drift in drifts) < 1.2
    assert fmean(drift.kl for drift in drifts) < 0.1


def test_facts_add_up_in_any_order(loaded: LoadedModel, mend: Mend) -> None:
    facts = facts_of(UNSEEN)[:3]
    options = mend.options(facts, {})
    solved = mend.solve(facts, options, silent)
    assert mend.solve(facts[::-1], options, silent) == solved
    assert mend.digest(facts[::-1], options) == mend.digest(facts, options)
    assert mend.digest(facts[:2], options) != mend.digest(facts, options)
    alone = [mend.solve([fact], options, silent) for fact in facts]
    cpu = torch.device("cpu")
    for path, delta in solved.items():
        total = sum(one[path].matrix(cpu) for one in alone)
        torch.testing.assert_close(delta.matrix(cpu), total, rtol=1e-3, atol=1e-6)
    assert mend.solve([], options, silent) == {}


def test_options_and_digests_name_the_network(
    loaded: LoadedModel, mend: Mend, tmp_path: Path
) -> None:
    facts = facts_of(UNSEEN)[:1]
    other = train(loaded, facts_of(TRAINED_ON), TEXT, tmp_path, replace(SHORT, steps=1))
    others = Mend(editor_with(loaded, other.file))
    options, its = mend.options(facts, {}), others.options(facts, {})
    assert json.loads(json.dumps(options)) == options
    assert options["network"] == mend.prepare(silent)["network"] != its["network"]
    assert mend.digest(facts, options) != others.digest(facts, its)
    with pytest.raises(MemitError, match="written by another network"):
        mend.solve(facts, its, silent)
    with pytest.raises(UnknownOption, match="mend has no option 'v_lr'"):
        mend.options(facts, {"v_lr": 1})


def test_a_fact_of_too_many_tokens_is_refused(mend: Mend) -> None:
    facts = facts_of(UNSEEN)[:1]
    assert mend.unwritable(facts, silent) == ()
    mend._editor.max_tokens = 3
    with pytest.raises(InvalidFact, match="at most 3"):
        mend.unwritable(facts, silent)
    with pytest.raises(InvalidFact, match="at most 3"):
        mend.solve(facts, mend.options(facts, {}), silent)


# The file


def test_the_file_gives_the_network_back(loaded: LoadedModel, done: Outcome) -> None:
    one, two = (load_trained(done.file, loaded) for _ in range(2))
    assert one.digest == two.digest
    with safe_open(done.file, "pt") as opened:
        config = json.loads(opened.metadata()["mend"])
        stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    state = one.network.state_dict()
    assert set(state) == set(stored)
    assert all(torch.equal(state[name].cpu(), stored[name]) for name in stored)
    assert config == one.config
    assert (config["base"], config["rank"]) == (loaded.digest, LONG.rank)
    assert config["steps"] == done.standing.best_step
    assert config["held_out"]["edit"] == done.standing.best[0]


def changed(file: Path, to: Path, config: Mapping[str, Any], drop: str = "") -> Path:
    """The same network with another config, and without a tensor."""
    with safe_open(file, "pt") as opened:
        given = json.loads(opened.metadata()["mend"]) | config
        tensors = {n: opened.get_tensor(n) for n in opened.keys() if n != drop}  # noqa: SIM118
    if drop == "nan":
        tensors["rates"][0] = torch.nan
    safetensors.torch.save_file(tensors, to, {"mend": json.dumps(given)})
    return to


@pytest.mark.parametrize(
    ("config", "drop", "message"),
    [
        ({}, "rates", "damaged: its tensors"),
        ({}, "nan", "damaged: it holds NaN"),
        ({"rank": 9}, "", "damaged: its tensors"),
        ({"rank": "9"}, "", "metadata are damaged"),
        ({"matrices": ["lm_head"]}, "", "another release"),
        ({"base": "0" * 64}, "", "trained for another base model"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    loaded: LoadedModel, done: Outcome, tmp_path: Path, config: Any, drop: str, message: str
) -> None:
    file = changed(done.file, tmp_path / "changed.safetensors", config, drop)
    with pytest.raises(MemitError, match=message):
        Mend(editor_with(loaded, file))


def test_another_base_and_no_network_are_refused(
    loaded: LoadedModel, done: Outcome, tmp_path: Path
) -> None:
    with pytest.raises(MemitError, match="trained for another base model"):
        Mend(editor_with(loaded_tiny("llama"), done.file))
    with pytest.raises(MemitError, match="MEMIT_MEND"):
        Mend(Editor(loaded))
    with pytest.raises(MemitError, match="there is no trained network at"):
        Mend(editor_with(loaded, tmp_path / "none.safetensors"))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(done.file.read_bytes()[:1_000])
    with pytest.raises(MemitError, match="is no trained network"):
        Mend(editor_with(loaded, torn))


# Going on


def stopping_at(step: int) -> Any:
    def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        if stage == "train" and done == step:
            raise Cancelled("stop")

    return progress


def test_a_training_goes_on_as_if_it_had_not_been_broken_off(tmp_path: Path) -> None:
    loaded, facts = loaded_tiny("llama"), facts_of(TRAINED_ON)
    whole = train(loaded, facts, TEXT, tmp_path / "whole", SHORT)
    folder = tmp_path / "broken"
    for step in (7, 13):  # what was done since the last save is lost
        with pytest.raises(Cancelled):
            train(loaded, facts, TEXT, folder, SHORT, stopping_at(step))
    reported: list[int] = []

    def report(_stage: str, done: int, _total: int, *, loss: float | None = None) -> None:
        reported.append(done)

    train(loaded, facts, TEXT, folder, SHORT, report)
    assert reported[0] == 10
    assert (folder / trained.FILE).read_bytes() == whole.file.read_bytes()
    assert sorted(one.name for one in folder.iterdir()) == [trained.FILE]
    with pytest.raises(MemitError, match="exists already"):
        train(loaded, facts, TEXT, folder, SHORT)


def test_an_unfinished_training_of_another_kind_is_not_gone_on_with(tmp_path: Path) -> None:
    loaded, facts = loaded_tiny("llama"), facts_of(TRAINED_ON)
    with pytest.raises(Cancelled):
        train(loaded, facts, TEXT, tmp_path, SHORT, stopping_at(6))
    with pytest.raises(MemitError, match="an unfinished training on other records"):
        train(loaded, facts[1:], TEXT, tmp_path, SHORT)
    with pytest.raises(MemitError, match="an unfinished training on other records"):
        train(loaded, facts, TEXT, tmp_path, replace(SHORT, rank=8))
    file = tmp_path / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(MemitError, match="remove it to begin anew"):
        train(loaded, facts, TEXT, tmp_path, SHORT)


def test_a_training_that_makes_it_worse_ends_early(tmp_path: Path) -> None:
    loaded = loaded_tiny("llama")
    ruinous = replace(SHORT, steps=100, rate=0.3, look_steps=2, patience=2)
    standing = train(loaded, facts_of(TRAINED_ON), TEXT, tmp_path, ruinous).standing
    assert standing.waited == 2
    assert standing.step == standing.best_step + 4 < 100


def test_too_few_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MemitError, match="1 records are too few"):
        train(loaded_tiny("llama"), facts_of(TRAINED_ON)[:1], TEXT, tmp_path, SHORT)

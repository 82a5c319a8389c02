"""The serving view computes each row with its own version's matrices and leaves the model alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import DynamicCache, MambaConfig, MambaForCausalLM
from transformers.pytorch_utils import Conv1D

from memit_core.errors import UnsupportedModel
from tests.device import DEVICE
from tests.unit.worker.engine.stage import Stage, make_stage
from worker.engine.versioned import ServingView, VersionedProjection


def linear(m: int, d: int) -> nn.Module:
    return nn.Linear(m, d)


def conv1d(m: int, d: int) -> nn.Module:
    module = Conv1D(d, m)
    nn.init.normal_(module.bias)
    return module


def by_hand(module: nn.Module, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    matrix = weight if isinstance(module, Conv1D) else weight.T
    return x @ matrix + module.bias


@pytest.mark.parametrize(("make", "d"), [(linear, 5), (conv1d, 5), (linear, 7), (conv1d, 7)])
@torch.no_grad()
def test_each_row_goes_through_its_own_versions_matrix(make, d: int) -> None:
    """Linear and Conv1D keep their weights the other way round; the square case (7) would hide a
    wrong guess."""
    draw = torch.Generator().manual_seed(0)
    base = make(7, d)
    weights = {v: torch.randn(base.weight.shape, generator=draw) for v in ("v1-a", "v2-b")}
    projection = VersionedProjection(base)
    for version, weight in weights.items():
        projection.install(version, weight)
    rows = ["v1-a", "v0-0", "v2-b", "v1-a"]
    x = torch.randn(4, 3, 7, generator=draw)

    projection.route(rows)
    out = projection(x)

    assert out.shape == (4, 3, d)
    for row, version in enumerate(rows):
        weight = weights.get(version, base.weight)
        torch.testing.assert_close(out[row], by_hand(base, weight, x[row]))
    torch.testing.assert_close(projection(x.reshape(12, 7)), out.reshape(12, d))


@torch.no_grad()
def test_one_version_in_the_batch_is_the_module_itself_bit_for_bit() -> None:
    base = linear(64, 32)
    projection = VersionedProjection(base)
    projection.install("v1-a", torch.randn(32, 64))
    x = torch.randn(8, 16, 64)

    projection.route(["v0-0"] * 8)

    assert torch.equal(projection(x), base(x))


@torch.no_grad()
def test_a_copy_shares_everything_but_its_weight() -> None:
    base = linear(6, 5)
    projection = VersionedProjection(base)
    weight = torch.randn(5, 6)

    projection.install("v1-a", weight)

    copy = projection.copies["v1-a"]
    assert type(copy) is type(base)
    assert copy.bias.data_ptr() == base.bias.data_ptr()
    assert copy.weight.data_ptr() == weight.data_ptr()


def weights_of(stage: Stage, version: str) -> dict[str, torch.Tensor]:
    merged = stage.merged(version)
    return {path: merged.get_submodule(path).weight.data for path in stage.deltas[version]}


def logits(view: ServingView, rows: list[str]) -> torch.Tensor:
    tokens = torch.tensor([[5, 6, 7]] * len(rows), device=DEVICE)
    with torch.inference_mode():
        return view.logits(rows, tokens, torch.ones_like(tokens), DynamicCache())


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama_square"])
def test_versions_come_and_go_and_the_pristine_model_never_changes(
    name: str, registry_path: Path
) -> None:
    stage = make_stage(name, registry_path)
    pristine = stage.loaded.model
    first, second = stage.publish(1), stage.publish(2, (3,))
    rows = [first, stage.base_version, second]
    merged = {version: stage.merged(version) for version in rows}
    before = {path: p.clone() for path, p in pristine.named_parameters()}
    classes = {path: type(module) for path, module in pristine.named_modules()}
    view = ServingView(pristine, stage.base_version)
    fired: list[str] = []
    for path, module in pristine.named_modules():
        module.register_forward_hook(lambda *_, path=path: fired.append(path))
    base_logits = logits(view, [stage.base_version])

    for version in (first, second):
        view.install(version, weights_of(stage, version))
    out = logits(view, rows)

    for row, version in enumerate(rows):
        reference = merged[version](torch.tensor([[5, 6, 7]], device=DEVICE)).logits[0, -1]
        torch.testing.assert_close(out[row], reference, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(out[0], out[1])
    assert torch.equal(logits(view, [stage.base_version]), base_logits)

    view.remove(first)
    with pytest.raises(KeyError, match=first):
        logits(view, rows)
    assert logits(view, [second, stage.base_version]).isfinite().all()

    assert fired == [], "the pristine tree ran"
    assert classes == {path: type(module) for path, module in pristine.named_modules()}
    assert all(torch.equal(before[path], p) for path, p in pristine.named_parameters())


def test_a_view_owns_no_weights_but_those_of_its_versions(registry_path: Path) -> None:
    stage = make_stage("llama", registry_path)
    version = stage.publish(1)
    view = ServingView(stage.loaded.model, stage.base_version)
    shared = {p.data_ptr() for p in stage.loaded.model.parameters()}
    assert {p.data_ptr() for p in view.model.parameters()} == shared

    weights = weights_of(stage, version)
    view.install(version, weights)

    assert {p.data_ptr() for p in view.model.parameters()} == shared
    copies = [
        module.copies[version]
        for module in view.model.modules()
        if isinstance(module, VersionedProjection)
    ]
    assert {c.weight.data_ptr() for c in copies} == {w.data_ptr() for w in weights.values()}


def test_a_model_with_a_recurrent_state_is_refused() -> None:
    """Left padding would run into the state; a mask cannot take it out again."""
    model = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=32))
    with pytest.raises(UnsupportedModel, match=r"LinearAttentionLayer|no argument cache"):
        ServingView(model, "v0-0")

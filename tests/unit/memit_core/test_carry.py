"""What stands between a projection and the residual stream is found, gone through, and undone."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from memit_core.carry import Carry, arrives, needed
from memit_core.discover import discover
from memit_core.errors import UnsupportedModel
from tests.reference import NAMES
from tests.tiny_models import LAYERS, TINY, tiny_model

D = 48


@pytest.mark.parametrize("name", TINY)
def test_it_is_found_in_every_family(name: str) -> None:
    carry, known = discover(tiny_model(name)).carry, NAMES[name]
    norm = known.norm
    assert carry.norms == (() if norm is None else tuple(norm.format(i) for i in range(LAYERS)))
    assert carry.scale == pytest.approx(known.scale)
    assert carry.plain is (norm is None and known.scale == 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma3", "granite"])
def test_it_is_found_in_half_precision(name: str, dtype: torch.dtype) -> None:
    wide = discover(tiny_model(name)).carry
    assert discover(tiny_model(name).to(dtype)).carry == wide


def squashed(self: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(self.plain(x))


def test_what_is_neither_added_nor_scaled_nor_normed_is_refused() -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.plain = layer.mlp.forward
        layer.mlp.forward = MethodType(squashed, layer.mlp)
    with pytest.raises(UnsupportedModel, match="neither as it is, nor scaled, nor through a norm"):
        discover(model)


def test_an_output_that_does_not_arrive_is_refused() -> None:
    model = tiny_model("granite")
    for layer in model.model.layers:
        layer.residual_multiplier = 0.0
    with pytest.raises(UnsupportedModel, match="neither as it is"):
        discover(model)


def test_blocks_that_differ_are_refused() -> None:
    model = tiny_model("granite")
    model.model.layers[1].residual_multiplier = 0.25
    with pytest.raises(UnsupportedModel, match="in different ways"):
        discover(model)


def norms() -> list[nn.Module]:
    draw = torch.Generator().manual_seed(1)
    made: list[nn.Module] = [nn.RMSNorm(D), nn.LayerNorm(D)]
    for norm in made:
        for parameter in norm.parameters():
            parameter.data = 300 + 100 * torch.rand(D, generator=draw)
    return [norm.double().requires_grad_(requires_grad=False) for norm in made]


@pytest.mark.parametrize("norm", norms(), ids=["rms", "layer"])
def test_a_move_through_a_norm_is_undone(norm: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(5, D, dtype=torch.float64, generator=draw)
    delta = torch.randn(5, D, dtype=torch.float64, generator=draw)
    carry = Carry(norms=("there",))
    wanted = arrives(carry, norm, x, delta)
    assert wanted.norm() > 50 * delta.norm(), "the norm's gain is far from one"
    found = needed(carry, norm, x, wanted)
    moved = arrives(carry, norm, x, found)
    assert (moved - wanted).norm() < 0.01 * wanted.norm()
    # A longer input is the same to a norm: what is found is no longer than what was there.
    assert (found.norm(dim=-1) < 1.2 * delta.norm(dim=-1)).all()
    assert torch.equal(found, needed(carry, norm, x, wanted)), "the same bits again"


def test_what_a_norm_does_not_let_through_is_left() -> None:
    """It keeps its output's length: a longer state cannot be had."""
    norm = norms()[0]
    x = torch.randn(2, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    carry = Carry(norms=("there",))
    found = needed(carry, norm, x, norm(x))
    assert found.isfinite().all()
    assert found.norm() < x.norm()


def test_a_scale_is_undone() -> None:
    wanted = torch.ones(2, 3, dtype=torch.float64)
    carry = Carry(scale=0.25)
    found = needed(carry, None, None, wanted)
    assert torch.equal(arrives(carry, None, None, found), wanted)
    assert torch.equal(found, 4 * wanted)

"""Maps that run as one product give what they give apart, whoever is asked and in whatever way."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from memit_core import packed
from memit_core.joined import JoinedLinear, join
from memit_core.packed import PackedLinear, pack
from memit_core.views import cast_view, set_weight, view_of
from tests.unit.memit_core.examples import loaded_tiny

SIZES = {"q_proj": 24, "k_proj": 8, "v_proj": 8}
pytestmark = pytest.mark.skipif(
    not packed._can_pack(torch.float32), reason="needs oneDNN's kernels on an x86 processor"
)


class Attention(nn.Module):
    """What a block's attention begins with."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        for name, size in SIZES.items():
            self.add_module(name, nn.Linear(24, size, bias=bias))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.get_submodule(name)(x) for name in SIZES]


def both(*, bias: bool = True) -> tuple[Any, Any]:
    """Plain, and joined, on the same weights."""
    torch.manual_seed(0)
    plain = Attention(bias=bias).requires_grad_(False)
    model = view_of(plain)
    assert pack(model)
    join(model)
    assert all(type(model.get_submodule(name)) is JoinedLinear for name in SIZES)
    return plain, model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (3, 5, 24), (2, 1, 24), (37, 24), (1100, 24)])
def test_outputs_are_the_same(bias: bool, shape: tuple[int, ...]) -> None:
    plain, model = both(bias=bias)
    x = torch.randn(shape)
    torch.testing.assert_close(model(x), plain(x))
    torch.testing.assert_close(model(x), plain(x))


def test_one_product_is_run_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = both()
    sizes: list[int] = []
    run = packed._run

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        out = run(x, weight, bias)
        sizes.append(out.shape[-1])
        return out

    monkeypatch.setattr(packed, "_run", counted)
    x = torch.randn(2, 24)
    model(x)
    assert sizes == [40]
    model(x)
    assert sizes == [40, 40], "what was left is taken once: the input may have changed"


def test_each_may_be_asked_alone_and_in_any_order() -> None:
    plain, model = both()
    x = torch.randn(2, 24)
    for name in ("v_proj", "v_proj", "q_proj", "k_proj", "q_proj"):
        torch.testing.assert_close(model.get_submodule(name)(x), plain.get_submodule(name)(x))


def test_gradients_are_those_of_maps_apart() -> None:
    plain, model = both()
    slopes = []
    for one in (plain, model):
        x = torch.linspace(-1, 1, 72).view(3, 24).requires_grad_()
        with torch.no_grad():
            one.q_proj(x)  # what this leaves has no gradients
        loss = sum((out.sin() * (i + 1)).sum() for i, out in enumerate(one(x)))
        slopes.append(torch.autograd.grad(loss, x)[0])
    torch.testing.assert_close(*slopes)


def test_one_with_another_weight_runs_alone_and_the_rest_as_before() -> None:
    plain, model = both()
    x = torch.randn(2, 24)
    view = view_of(model)
    set_weight(view, "k_proj", 2 * plain.k_proj.weight)
    query, key, value = view(x)
    expected = plain(x)
    torch.testing.assert_close([query, value], [expected[0], expected[2]])
    torch.testing.assert_close(
        key - plain.k_proj.bias, 2 * (expected[1] - plain.k_proj.bias), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(model(x), expected)


def test_a_changed_weight_is_packed_anew_and_a_trained_one_has_gradients() -> None:
    plain, model = both()
    x = torch.randn(2, 24)
    model(x)
    plain.v_proj.weight.mul_(3)
    torch.testing.assert_close(model(x), plain(x))
    model.v_proj.weight.requires_grad_()
    model(x)[2].sum().backward()
    expected = x.sum(0).expand(8, 24)
    torch.testing.assert_close(model.v_proj.weight.grad, expected)


def test_views_share_one_layout_and_a_view_of_one_map_copies_no_other() -> None:
    _, model = both()
    x = torch.randn(2, 24)
    model(x)
    kept = model.q_proj.weight.packed_joined
    view = view_of(model)
    view(x)
    assert view.q_proj.weight.packed_joined is kept
    alone = view_of(model.v_proj)
    assert alone.joined is model.v_proj.joined
    torch.testing.assert_close(alone(x), model(x)[2])


def test_copies_in_another_precision_deep_ones_and_pickled_ones_stay_joined() -> None:
    _, model = both()
    x = torch.randn(2, 24)
    expected = model(x)
    pickled = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    for other in (copy.deepcopy(model), pickled):
        torch.testing.assert_close(other(x), expected)
        assert other.q_proj.joined.weights[1] is other.k_proj.weight
        assert other.q_proj.weight.packed_joined is not model.q_proj.weight.packed_joined
    half = cast_view(model, torch.float64)
    assert half.q_proj.joined.weights[2] is half.v_proj.weight
    torch.testing.assert_close([out.float() for out in half(x.double())], expected)


def test_maps_of_unlike_inputs_or_biases_stay_apart() -> None:
    for odd in (nn.Linear(16, 8), nn.Linear(24, 8, bias=False)):
        model = Attention(bias=True).requires_grad_(False)
        model.k_proj = odd.requires_grad_(False)
        pack(model)
        join(model)
        assert all(type(model.get_submodule(name)) is PackedLinear for name in SIZES)


def test_a_loaded_model_is_joined() -> None:
    block = loaded_tiny("llama").model.model.layers[0]
    for one in (block.self_attn.v_proj, block.mlp.gate_proj, block.mlp.up_proj):
        assert type(one) is JoinedLinear
    assert type(block.mlp.down_proj) is PackedLinear

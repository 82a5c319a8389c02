"""Packed weights give what plain ones give, wherever a linear map is used."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from memit_core import packed
from memit_core.packed import PackedConv1D, PackedLinear, pack
from memit_core.transformers_internals import Conv1D
from memit_core.views import cast_view, set_weight, view_of

KINDS = {"linear": lambda: nn.Linear(24, 40), "conv1d": lambda: Conv1D(40, 24)}
can_pack = pytest.mark.skipif(
    not packed._can_pack(torch.float32), reason="needs oneDNN's kernels on an x86 processor"
)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    """What a test pretends of the machine is forgotten after it."""
    yield
    packed._can_pack.cache_clear()


def both(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A plain model of one linear map and the same one packed, on one weight."""
    torch.manual_seed(0)
    plain = nn.Sequential(KINDS[kind]()).to(dtype).requires_grad_(False)
    nn.init.normal_(plain[0].bias)
    model = view_of(plain)
    assert pack(model)
    assert isinstance(model[0], PackedLinear if kind == "linear" else PackedConv1D)
    assert model[0].weight is plain[0].weight
    return plain, model


@can_pack
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 24),
        (7, 24),
        (3, 5, 24),
        (2, 1, 3, 24),
        (0, 24),
        (17, 24),
        (3, 11, 24),
        (99, 24),
        (130, 24),
        (512, 24),
        (1100, 24),
    ],
)
def test_the_product_is_the_same(kind: str, shape: tuple[int, ...]) -> None:
    plain, model = both(kind)
    x = torch.randn(shape)
    torch.testing.assert_close(model(x), plain(x))
    across = torch.randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)
    torch.testing.assert_close(model(across), plain(across.contiguous()))


@can_pack
def test_memory_does_not_grow_with_the_lengths_of_prompts() -> None:
    """oneDNN keeps a kernel for every number of rows: of 700 they would take some 400 MB."""
    plain = nn.Sequential(nn.Linear(576, 192)).requires_grad_(False)
    assert pack(plain)
    process = psutil.Process()
    with torch.inference_mode():
        plain(torch.ones(1, 576))
        before = process.memory_info().rss
        for rows in range(1, 700):
            plain(torch.ones(rows, 576))
    assert process.memory_info().rss - before < 64 * 2**20


@pytest.mark.skipif(
    not packed._can_pack(torch.bfloat16), reason="needs oneDNN's kernels of bfloat16"
)
def test_bfloat16_is_as_exact_as_before() -> None:
    plain, model = both("linear", torch.bfloat16)
    x = torch.randn(9, 24).bfloat16()
    exact = x.double() @ plain[0].weight.double().T + plain[0].bias.double()
    errors = [float((m(x).double() - exact).norm()) for m in (plain, model)]
    assert errors[1] < 1.1 * errors[0]


@can_pack
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_any_order_reach_the_input(kind: str) -> None:
    plain, model = both(kind)
    found = []
    for one in (plain, model):
        x = torch.linspace(-1, 1, 72).view(3, 24).requires_grad_()
        (slope,) = torch.autograd.grad(one(x).pow(3).sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.pow(2).sum(), x)
        found.append((slope.detach(), curve))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@can_pack
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_is_replaced_or_changed_is_packed_anew(kind: str) -> None:
    plain, model = both(kind)
    x = torch.randn(4, 24)
    before = model(x)
    view = view_of(model)
    set_weight(view, "0", 2 * model[0].weight)
    bias = model[0].bias
    torch.testing.assert_close(view(x) - bias, 2 * (before - bias))
    assert torch.equal(model(x), before), "the view's weight is not the model's"
    model[0].weight.mul_(3)
    torch.testing.assert_close(model(x) - bias, 3 * (before - bias))
    torch.testing.assert_close(model(x), plain(x))


@can_pack
def test_views_share_one_packed_copy_and_deep_copies_none() -> None:
    _, model = both("linear")
    x = torch.randn(4, 24)
    model(x)
    kept = model[0].weight.packed
    view = view_of(model)
    view(x)
    assert view[0].weight.packed is kept
    other = copy.deepcopy(model)
    other[0].weight.zero_()
    torch.testing.assert_close(other(x), other[0].bias.expand(4, 40))
    half = cast_view(model, torch.bfloat16)
    torch.testing.assert_close(half(x.bfloat16()).float(), model(x), rtol=0.05, atol=0.05)


@can_pack
def test_a_model_that_has_run_can_be_pickled() -> None:
    plain, model = both("linear")
    x = torch.randn(4, 24)
    model(x)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    torch.testing.assert_close(again(x), plain(x))


@can_pack
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_weight_are_those_of_any_linear_map(kind: str) -> None:
    plain, model = both(kind)
    x = torch.randn(4, 24)
    model(x)
    slopes = []
    for one in (plain, model):
        leaf = one[0].weight.detach().clone().requires_grad_()
        one[0].weight = nn.Parameter(leaf)
        slopes.append(torch.autograd.grad(one(x).square().sum(), one[0].weight)[0])
    torch.testing.assert_close(*slopes)


def test_models_that_do_not_fit_twice_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(24, 40)).requires_grad_(False)

    class Small:
        total = 24 * 40 * 4 * 3

    monkeypatch.setattr(psutil, "virtual_memory", Small)
    assert not pack(model)
    assert type(model[0]) is nn.Linear


def test_other_devices_precisions_and_processors_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Linear(24, 40)).requires_grad_(False)
    assert not pack(copy.deepcopy(model).half())
    assert not pack(copy.deepcopy(model).to("meta"))
    monkeypatch.setattr(packed.platform, "machine", lambda: "riscv64")
    packed._can_pack.cache_clear()
    assert not pack(model)


def test_kernels_that_are_not_there_or_wrong_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, packed.__name__)
    model = nn.Sequential(nn.Linear(24, 40)).requires_grad_(False)
    monkeypatch.setattr(packed, "MACHINES", (packed.platform.machine(),))

    def gone(*_: Any, **__: Any) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(packed, "layout_of", gone)
    packed._can_pack.cache_clear()
    assert not pack(model)
    assert "_linear_pointwise" in caplog.text
    monkeypatch.setattr(packed, "layout_of", lambda *_, **__: torch.zeros(0))
    monkeypatch.setattr(packed, "_multiply", lambda x, *_: torch.zeros(len(x), 64))
    packed._can_pack.cache_clear()
    assert not pack(model)

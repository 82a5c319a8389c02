"""A delta survives its bytes bit for bit, and weights are built from it in one way only."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from memit_core.edit import Editor
from memit_core.errors import NonFinite
from memit_core.facts import group_facts
from memit_core.weights import Dense, LowRank, decode_delta, encode_delta, served_weight, smallest
from tests.unit.memit_core.examples import FACTS

CPU = torch.device("cpu")
sizes = st.integers(1, 9)


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(sizes, sizes, sizes)
def test_encode_and_decode_are_inverse(d: int, m: int, r: int) -> None:
    low = decode_delta(encode_delta(LowRank(matrix(d, r), matrix(m, r, 1))))
    assert isinstance(low, LowRank)
    assert torch.equal(low.left, matrix(d, r))
    assert torch.equal(low.right, matrix(m, r, 1))
    dense = decode_delta(encode_delta(Dense(matrix(d, m))))
    assert isinstance(dense, Dense)
    assert torch.equal(dense.delta, matrix(d, m))


def test_the_same_delta_gives_the_same_bytes() -> None:
    """Blobs are addressed by content."""
    assert encode_delta(LowRank(matrix(4, 2), matrix(5, 2))) == encode_delta(
        LowRank(matrix(4, 2), matrix(5, 2))
    )


@given(sizes, sizes, sizes)
def test_factors_stay_factors_only_while_they_are_smaller(d: int, m: int, r: int) -> None:
    left, right = matrix(d, r).double(), matrix(m, r, 1).double()
    delta = smallest(left, right)
    assert isinstance(delta, LowRank if r * (d + m) < d * m else Dense)
    torch.testing.assert_close(delta.matrix(CPU), (left @ right.T).float())
    assert delta.matrix(CPU).dtype == torch.float32
    assert delta.rank <= r or isinstance(delta, Dense)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_factor_that_is_not_finite_is_refused(bad: float) -> None:
    spoiled = matrix(4, 2)
    spoiled[1, 1] = bad
    with pytest.raises(NonFinite):
        smallest(spoiled, matrix(5, 2))
    with pytest.raises(NonFinite):
        smallest(matrix(5, 2), spoiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("columns", [4, 6], ids=["oblong", "square"])
def test_served_weight_adds_in_float32_and_casts_once(
    dtype: torch.dtype, transposed: bool, columns: int
) -> None:
    """Also for a square matrix, whose shape does not tell that it lies transposed."""
    base = matrix(6, columns).to(dtype)
    change = Dense(1e-3 * (matrix(columns, 6, 1) if transposed else matrix(6, columns, 1)))
    before = base.clone()
    served = served_weight(base, change, transposed)
    exact = base.double() + (change.delta.T if transposed else change.delta).double()
    assert (served.shape, served.dtype) == (base.shape, dtype)
    assert served.is_contiguous()
    assert torch.equal(served, exact.float().to(dtype))
    assert torch.equal(base, before)


def test_factors_and_their_product_serve_the_same() -> None:
    low = LowRank(matrix(6, 2), matrix(4, 2, 1))
    base = matrix(6, 4, 2)
    dense = Dense(low.matrix(CPU))
    assert torch.equal(served_weight(base, low, False), served_weight(base, dense, False))


def test_a_view_is_its_base_and_the_changes(editor: Editor) -> None:
    """Each edited matrix is its base plus its delta; every other tensor is the base's own."""
    solved = editor.solve(group_facts(FACTS))
    edited = editor.apply(solved)
    model, structure = editor.loaded.model, editor.structure
    for path, delta in solved.items():
        base, weight = (m.get_submodule(path).weight for m in (model, edited))
        change = delta.matrix(CPU)
        assert torch.equal(weight, base + (change.T if structure.transposed else change))
    owned = {f"{path}.weight" for path in solved}
    for name, tensor in edited.state_dict().items():
        assert (tensor.data_ptr() == model.state_dict()[name].data_ptr()) == (name not in owned)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not safetensors",
        encode_delta(Dense(torch.ones(2, 2)))[:-3],
        safetensors.torch.save({"left": torch.ones(2, 2)}),
        safetensors.torch.save({"delta": torch.ones(2, 2), "more": torch.ones(1)}),
    ],
    ids=["empty", "garbage", "cut", "half", "more"],
)
def test_what_is_no_delta_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="delta"):
        decode_delta(data)

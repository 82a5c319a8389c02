"""A view shares every tensor but the edited ones, and nothing done to it reaches its source."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memit_core.discover import discover
from memit_core.loading import LoadedModel
from memit_core.tokens import Row, collate
from memit_core.trace import hooked, run_until
from memit_core.views import cast_view, set_weight, view_of
from tests.device import DEVICE

IDS = torch.tensor([[5, 80, 200, 7, 301]], device=DEVICE)


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(input_ids=IDS).logits
    return result


def test_a_view_shares_every_tensor_but_the_edited(loaded: LoadedModel) -> None:
    edited = discover(loaded.model).projections[2]
    view = view_of(loaded.model)
    set_weight(view, edited, torch.zeros_like(loaded.model.get_submodule(edited).weight))
    base, other = tensors(loaded.model), tensors(view)
    assert base.keys() == other.keys()
    own = {path for path in base if base[path].data_ptr() != other[path].data_ptr()}
    assert own == {f"{edited}.weight"}


def test_an_edit_of_a_view_changes_its_answers_only(loaded: LoadedModel) -> None:
    before = logits(loaded.model)
    path = discover(loaded.model).projections[2]
    view, sibling = view_of(loaded.model), view_of(loaded.model)
    set_weight(view, path, torch.zeros_like(loaded.model.get_submodule(path).weight))
    assert not torch.allclose(logits(view), before)
    assert torch.equal(logits(sibling), before)
    assert torch.equal(logits(loaded.model), before)


def test_a_view_of_a_view_inherits_its_edit(loaded: LoadedModel) -> None:
    path = discover(loaded.model).projections[0]
    first = view_of(loaded.model)
    set_weight(first, path, 2 * loaded.model.get_submodule(path).weight)
    assert torch.equal(logits(view_of(first)), logits(first))


def test_tied_weights_stay_tied_in_a_view(loaded: LoadedModel) -> None:
    view = view_of(loaded.model)
    tied = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert (view.get_output_embeddings().weight is view.get_input_embeddings().weight) == tied
    assert tied == bool(loaded.model.config.tie_word_embeddings)


def test_a_view_generates_as_its_source(loaded: LoadedModel) -> None:
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 8, "do_sample": False}
    expected = loaded.model.generate(IDS, **options)
    assert torch.equal(view_of(loaded.model).generate(IDS, **options), expected)


def test_a_cast_view_takes_what_another_has_cast_and_copies_the_rest(loaded: LoadedModel) -> None:
    """The edited weight, above all: the other view holds the base's."""
    structure = discover(loaded.model)
    upper = cast_view(loaded.model, torch.bfloat16, except_for=structure.blocks[:2])
    path = structure.projections[1]
    edited = view_of(loaded.model)
    set_weight(edited, path, edited.get_submodule(path).weight * 2)
    cast = cast_view(edited, torch.bfloat16, cast=upper)
    alone = cast_view(edited, torch.bfloat16)
    taken = {id(tensor) for tensor in upper.parameters() if tensor.dtype is torch.bfloat16}
    for name, tensor in cast.named_parameters():
        lower = any(name.startswith(f"{block}.") for block in structure.blocks[:2])
        assert (id(tensor) in taken) is not lower, name
        assert torch.equal(tensor, alone.get_parameter(name)), name


def test_hooks_of_a_view_do_not_fire_elsewhere(loaded: LoadedModel) -> None:
    view, sibling = view_of(loaded.model), view_of(loaded.model)
    fired: list[str] = []
    block = discover(loaded.model).blocks[0]
    view.get_submodule(block).register_forward_hook(lambda *_: fired.append("view"))
    logits(loaded.model)
    logits(sibling)
    assert fired == []
    logits(view)
    assert fired == ["view"]
    assert hooks(loaded.model) == hooks(sibling) == 0


def test_a_weight_of_another_shape_or_dtype_is_refused(loaded: LoadedModel) -> None:
    path = discover(loaded.model).projections[0]
    weight = loaded.model.get_submodule(path).weight
    view = view_of(loaded.model)
    with pytest.raises(ValueError, match="expected"):
        set_weight(view, path, weight[:-1])
    with pytest.raises(ValueError, match="bfloat16"):
        set_weight(view, path, weight.bfloat16())


def test_running_part_of_a_view_reads_what_a_full_run_reads(loaded: LoadedModel) -> None:
    model = loaded.runnable()
    structure = model.structure
    rows = [Row((5, 80, 200, 7, 301), 2), Row((9, 10), 1)]
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        state = run_until(
            model,
            structure.blocks[2],
            collate(rows, DEVICE),
            {structure.projections[1]: seen.append},
        )
        whole = view_of(loaded.model)(input_ids=IDS, output_hidden_states=True).hidden_states[3]
    # one padded row of two against a single row: only the order of float32 sums differs
    torch.testing.assert_close(state[0], whole[0], rtol=1e-5, atol=1e-5)
    assert seen[0].shape == (2, 5, structure.intermediate)
    assert hooks(model.view) == 0


def test_an_error_inside_a_run_leaves_no_hook(loaded: LoadedModel) -> None:
    model = loaded.runnable()
    structure = model.structure

    def fail(_keys: torch.Tensor) -> None:
        raise RuntimeError("reader")

    batch = collate([Row((1, 2, 3), 1)], DEVICE)
    with pytest.raises(RuntimeError, match="reader"):
        run_until(model, structure.blocks[2], batch, {structure.projections[1]: fail})
    assert hooks(model.view) == 0


def test_hooked_removes_hooks_when_its_body_fails() -> None:
    module = torch.nn.Identity()
    with (
        pytest.raises(ZeroDivisionError),
        hooked([module.register_forward_hook(lambda *_: None)]),
    ):
        raise ZeroDivisionError
    assert not module._forward_hooks

"""A model to run: where its inputs go, where its blocks are, and the same with other weights."""

from __future__ import annotations

import torch

from memit_core.loading import LoadedModel
from memit_core.views import set_weight
from tests.device import DEVICE
from tests.unit.memit_core.examples import loaded_tiny


def test_inputs_and_blocks_are_where_the_weights_are(loaded: LoadedModel) -> None:
    model = loaded.runnable()
    depth = len(model.structure.blocks)
    devices = [model.device, *(model.device_of(i) for i in range(-1, depth))]
    assert {device.type for device in devices} == {DEVICE.type}


def test_a_block_is_found_where_it_lies() -> None:
    """Were the upper blocks elsewhere, as nothing loads them so far."""
    model = loaded_tiny("llama").runnable()
    model.view.get_submodule(model.structure.blocks[3]).to("meta")
    assert [model.device_of(i).type for i in (2, 3, -1)] == [DEVICE.type, "meta", "meta"]
    assert model.device.type == DEVICE.type


def test_each_runnable_model_is_a_view_of_its_own(loaded: LoadedModel) -> None:
    one, other = loaded.runnable(), loaded.runnable()
    path = one.structure.projections[1]
    weight = loaded.model.get_submodule(path).weight
    set_weight(one.view, path, 2 * weight)
    assert torch.equal(other.view.get_submodule(path).weight, weight)
    assert torch.equal(loaded.model.get_submodule(path).weight, weight)
    assert one.structure is other.structure


def test_with_another_view_all_else_stays(loaded: LoadedModel) -> None:
    model, view = loaded.runnable(), object()
    changed = model.with_view(view)
    assert changed.view is view
    assert (changed.structure, changed.tokenizer) == (model.structure, model.tokenizer)

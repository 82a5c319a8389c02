"""Options come from what is given, else the preset, else the default."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from memit_core.edit import Editor
from memit_core.methods import METHODS
from memit_core.preset import method_options, presets

SPOKEN_OF = [
    (name, method) for name, preset in presets().items() for method in preset.get("methods", {})
]


@pytest.mark.parametrize(("name", "method"), SPOKEN_OF)
def test_what_presets_say_of_a_method_it_takes(any_editor: Editor, name: str, method: str) -> None:
    preset = presets()[name]
    assert preset["methods"][method]["source"]
    found = method_options(SimpleNamespace(**preset["match"]), method)
    assert "source" not in found
    deep = {key: found[key] for key in ("layer", "layers") if key in found}
    rest = {key: value for key, value in found.items() if key not in deep}
    options = METHODS[method](any_editor).options([], rest)
    assert {key: options[key] for key in rest} == rest
    depth = preset["match"].get("num_hidden_layers", 48)
    for layers in deep.values():
        assert all(0 <= one < depth for one in (layers if isinstance(layers, list) else [layers]))


def test_a_model_without_a_preset_has_none() -> None:
    assert method_options(SimpleNamespace(model_type="other"), "rome") == {}

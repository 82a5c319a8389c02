"""The page of models says what the tests verify and what the presets hold."""

from __future__ import annotations

import re
from pathlib import Path

from memit_core.hparams import from_dict
from memit_core.preset import presets
from tests.reference import NAMES
from tests.tiny_models import tiny_config

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
FAMILY = re.compile(r"^\| `(\w+)` \| `(\S+)` \| (Conv1D|Linear) \| .+ \| (.*)\|$", re.MULTILINE)
PRESET = re.compile(r"^\| `([\w.-]+)` \| (?!`)(.+) \|$", re.MULTILINE)


def test_every_verified_family_has_its_line() -> None:
    lines = {name: (path, layout) for name, path, layout, _ in FAMILY.findall(PAGE)}
    expected = {
        name: (names.projection, "Conv1D" if names.transposed else "Linear")
        for name, names in NAMES.items()
    }
    assert lines == expected


def test_every_preset_is_with_its_family() -> None:
    for name, _, _, listed in FAMILY.findall(PAGE):
        kind = tiny_config(name).model_type
        if name != kind.removesuffix("_text"):  # a variant, listed after its family
            assert not listed.strip()
            continue
        expected = {n for n, preset in presets().items() if preset["match"]["model_type"] == kind}
        assert set(re.findall(r"`([^`]+)`", listed)) == expected


def test_every_preset_shows_its_values() -> None:
    lines = {name: [c.strip() for c in rest.split("|")] for name, rest in PRESET.findall(PAGE)}
    shown = {name: cells[1:] for name, cells in lines.items() if len(cells) == 7}
    expected = {}
    for name, preset in presets().items():
        hp = from_dict(preset["hparams"])
        expected[name] = [
            "–".join(map(str, dict.fromkeys((hp.layers[0], hp.layers[-1])))),
            str(hp.v_num_grad_steps),
            f"{hp.v_lr:g}",
            f"{hp.v_weight_decay:g}",
            f"{hp.clamp_norm_factor:g}",
            f"{hp.mom2_update_weight:,.0f}",
        ]
    assert shown == expected

"""One module knows what transformers does not promise to keep, and says so of new releases."""

from __future__ import annotations

import ast
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_core import transformers_internals
from memit_core.discover import discover
from memit_core.errors import UnsupportedModel
from memit_core.loading import adopt_model
from memit_core.transformers_internals import CACHE_ARGUMENTS, NEWEST_TESTED, QUANTISER
from tests.tiny_models import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[3]
DOOR = ROOT / "memit_core" / "transformers_internals.py"
SEARCHED = (
    "benchmarks",
    "cli",
    "contracts",
    "memit_core",
    "registry",
    "scripts",
    "service",
    "worker",
)
INTERNAL = {
    *CACHE_ARGUMENTS[1:],
    *QUANTISER,
    "Conv1D",
    "DynamicCache",
    "DynamicLayer",
    "AttentionInterface",
    "AttentionMaskInterface",
    "set_attn_implementation",
    "attn_implementation",
    "_attn_implementation",
    "_can_set_attn_implementation",
    "cache_position",
    "rope_parameters",
    "rope_scaling",
    "logits_to_keep",
    "hidden_states",
    "gguf_file",
    "backend_tokenizer",
}
"""Names inside transformers; what the door itself hands on may be imported from there."""


def reaches(tree: ast.AST) -> Iterator[str]:
    """Everything by which a module reaches past transformers' public API."""
    handed_on: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == transformers_internals.__name__:
            handed_on |= {alias.name for alias in node.names}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.startswith("transformers."):
                yield f"from {module} import"
            case ast.Import(names=names):
                yield from (f"import {n.name}" for n in names if n.name.startswith("transformers."))
            case ast.ImportFrom(module="transformers", names=names):
                yield from (n.name for n in names if n.name in INTERNAL)
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                if name in INTERNAL:
                    yield name
            case ast.Name(id=name) if name in INTERNAL and name not in handed_on:
                yield name
            case ast.Constant(value=str(text)) if text in INTERNAL:
                yield repr(text)


def test_no_other_module_reaches_into_transformers() -> None:
    found = {
        str(file.relative_to(ROOT)): names
        for package in SEARCHED
        for file in sorted((ROOT / package).rglob("*.py"))
        if file != DOOR and (names := list(reaches(ast.parse(file.read_text("utf-8")))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "from transformers.cache_utils import Cache",
        "import transformers.masking_utils",
        "from transformers import DynamicCache",
        "model(past_key_values=past)",
        "model(**{'past_key_values': past})",
        "config.rope_parameters",
        "model._can_set_attn_implementation()",
        "isinstance(module, Conv1D)",
    ],
)
def test_a_reach_is_found(code: str) -> None:
    assert list(reaches(ast.parse(code)))


def test_the_range_of_pyproject_ends_at_the_newest_release_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    core = project["optional-dependencies"]["core"]
    (ours,) = [spec for spec in core if spec.startswith("transformers")]
    assert ours.endswith(f",<={NEWEST_TESTED}")


@pytest.mark.parametrize(("installed", "warned"), [("99.0.0", True), (NEWEST_TESTED, False)])
def test_an_unknown_release_is_warned_of_when_a_model_is_taken(
    installed: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # transformers puts another module object in its place as it goes; the one that is asked counts.
    monkeypatch.setattr(transformers_internals.transformers, "__version__", installed)
    with caplog.at_level(logging.WARNING):
        adopt_model(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    assert any(NEWEST_TESTED in line and installed in line for line in caplog.messages) == warned


def renamed(model: Any) -> Any:
    """The model as in a release that renames the argument of keys and values once more."""
    inner = type(model.base_model)

    class Renamed(inner):  # type: ignore[misc, valid-type]
        def forward(self, input_ids: Any = None, kv_store: Any = None) -> Any:
            return super().forward(input_ids=input_ids, cache=kv_store)

    model.base_model.__class__ = Renamed
    return model


def test_a_forward_that_takes_no_keys_and_values_is_refused_with_what_was_tried() -> None:
    with pytest.raises(UnsupportedModel, match="no argument cache or past_key_values for keys"):
        discover(renamed(tiny_model("llama")))


@pytest.mark.parametrize(
    ("width", "tried"),
    [(6, "one forward over 6 tokens"), (2, "run block by block, with the tokens before given as")],
)
def test_a_forward_that_fails_is_refused_with_what_was_tried(width: int, tried: str) -> None:
    """Whatever the model's code raises, at whatever width of tokens it first does."""
    model = tiny_model("llama")
    mlp = type(model.model.layers[0].mlp)

    class Picky(mlp):  # type: ignore[misc, valid-type]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] == width:
                raise LookupError("no state for so many tokens")
            out: torch.Tensor = super().forward(x)
            return out

    for layer in model.model.layers:
        layer.mlp.__class__ = Picky
    with pytest.raises(UnsupportedModel, match=tried) as refused:
        discover(model)
    assert "LookupError: no state for so many tokens" in str(refused.value)

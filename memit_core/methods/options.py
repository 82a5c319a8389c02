"""The options of a method: its defaults, what the model's preset says, what an edit asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memit_core.errors import MemitError, UnknownOption
from memit_core.loading import LoadedModel
from memit_core.preset import method_options

LEAST = {"layer": 0, "weight_decay": 0, "v_weight_decay": 0, "kl_factor": 0}
"""What an option may be at least, where 0 is allowed; the others are above 0."""


def chosen(
    method: str, loaded: LoadedModel, defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """All options by name, JSON-ready: as given, else of the model's preset, else the default.

    Args:
        defaults: every option that there is; a value has the type of its default, and one whose
            default is None is a number that may be left out.

    Raises:
        UnknownOption: the method has no option of this name.
        MemitError: a value does not fit.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        known = ", ".join(sorted(defaults))
        raise UnknownOption(f"{method} has no option {unknown[0]!r}; it has {known}")
    depth = len(loaded.structure.blocks)
    options = {**defaults, **method_options(loaded.model.config, method), **given}
    return {
        name: _fitting(name, options[name], default, depth)
        for name, default in defaults.items()
        if not (default is None and options[name] is None)
    }


def _fitting(name: str, value: Any, default: Any, depth: int) -> Any:
    if isinstance(default, list):
        if not isinstance(value, list) or not value:
            raise MemitError(f"{name} must be a list of layers, got {value!r}")
        return sorted({_layer(name, one, depth) for one in value})
    if name == "layer":
        return _layer(name, value, depth)
    allowed = int if isinstance(default, int) else (int, float)
    number = isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and name not in LEAST):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise MemitError(f"{name} must be {kind} above 0, got {value!r}")
    return value if isinstance(default, int) else float(value)


def _layer(name: str, value: Any, depth: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < depth:
        raise MemitError(f"{name} must be one of the model's {depth} blocks, from 0; got {value!r}")
    return value

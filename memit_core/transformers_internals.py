"""The one door to what transformers does not promise to keep: names and classes inside it.

No other module of ours names them, so that a rename in a new release is one line here.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from memit_core.errors import UnsupportedModel

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What a forward calls its keys and values: from release 5.24 on, and before."""


def cache_argument(model: Any) -> str:
    """The name under which the model's forward takes keys and values.

    Raises:
        UnsupportedModel: it takes none, or its past is more than that (recurrent or compressed
            states).
    """
    name = type(model).__name__
    accepted = inspect.signature(model.forward).parameters
    found = next((argument for argument in CACHE_ARGUMENTS if argument in accepted), None)
    if found is None:
        tried = " or ".join(CACHE_ARGUMENTS)
        raise UnsupportedModel(f"{name}: its forward has no argument {tried} for keys and values")
    for layer in DynamicCache(config=model.config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UnsupportedModel(
                f"{name}: its cache needs a {type(layer).__name__}; "
                "only models whose past is keys and values can be edited and served"
            )
    return found

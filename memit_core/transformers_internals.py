"""The one door to what transformers does not promise to keep: names, classes and habits inside it.

No other module of ours knows them, so that a rename in a new release is one line here. What
transformers documents for everybody (the Auto classes, `generate`, the logits processors) is used
where it is needed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
)
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import eager_mask
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from memit_core.errors import UnsupportedModel
from memit_core.refusing import refusing

__all__ = ["Cache", "Conv1D", "DynamicCache", "DynamicLayer", "disable_progress_bar"]

NEWEST_TESTED = "5.24.0"
"""The newest release with which every test passed; the upper bound in pyproject.toml."""

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What a forward calls its keys and values: from release 5.24 on, and before."""
POSITIONS = "position_ids"
LAST_LOGITS = "logits_to_keep"
HIDDEN_STATES = "hidden_states"
"""What a block calls its input, where it is given by name."""
ANSWERED_BY_MASK = {"is_causal", POSITIONS, "use_cache", "cache_position", "sliding_window"}
"""Arguments of an attention function that need no look, since its mask says the same."""
QUANTISER = ("hf_quantizer", "quantization_config", "is_quantized")
GGUF_HEADER_BYTES = 1 << 26
"""Enough for a file's keys and names of tensors; a large vocabulary takes ten million."""
GGUF_SCALING = (b".rope.scaling.factor", b"rope_freqs.weight", b"rope_factors_long.weight")

log = logging.getLogger(__name__)


def warn_if_untested() -> None:
    """Log a warning where the installed release is newer than any that was tested."""
    installed = transformers.__version__
    if Version(installed) > Version(NEWEST_TESTED):
        log.warning(
            "transformers %s is newer than %s, the newest release tested; if something fails, "
            "pip install transformers==%s",
            installed,
            NEWEST_TESTED,
            NEWEST_TESTED,
        )


# How a forward and a block are called


def forward_arguments(model: Any) -> frozenset[str]:
    """Names that the model's forward takes."""
    return frozenset(inspect.signature(model.forward).parameters)


def cache_argument(model: Any) -> str:
    """The name under which the model's forward takes keys and values.

    Raises:
        UnsupportedModel: it takes none, or its past is more than that (recurrent or compressed
            states).
    """
    name, accepted = type(model).__name__, forward_arguments(model)
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


def block_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states among a block's arguments, [rows, width, d]."""
    hidden: torch.Tensor = args[0] if args else kwargs[HIDDEN_STATES]
    return hidden


def call_block(
    block: nn.Module, hidden: torch.Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Call a block as it was called before, but with other hidden states."""
    if args:
        return block(hidden, *args[1:], **kwargs)
    return block(**{**kwargs, HIDDEN_STATES: hidden})


# Keys and values

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Of one block: [rows, heads, width, head_dim] each."""


def growing_cache(make_layer: Callable[[], DynamicLayer]) -> DynamicCache:
    """An empty cache that makes the layer of each block when that is first run."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = make_layer
    return cache


# Attention and positions


def set_attention(view: Any, name: str, attention: Callable[..., Any]) -> None:
    """Let a view attend by a function of ours, with additive masks, where it lets itself be told.

    Args:
        name: the function's own; setting it again under the same name changes nothing.
    """
    if not view._can_set_attn_implementation():
        return
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, eager_mask)
    view.set_attn_implementation(name)


def longest_input(config: Any) -> int | None:
    """Tokens that a model of this config can take; None if it has no limit of its own."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond this length it computes every row of the batch differently.
        original: int = rope["original_max_position_embeddings"]
        return original
    limit: int | None = getattr(text, "max_position_embeddings", None)
    return limit


# Weights and tokenizers


def is_quantised(model_or_config: Any) -> bool:
    """Whether a model, or one of this config, has weights that are no plain floats."""
    return any(getattr(model_or_config, name, None) for name in QUANTISER)


def read_gguf(file: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, its weights dequantised to float32.

    Raises:
        UnsupportedModel: transformers cannot read it, or it does not hold every weight.
        OSError: the file cannot be read.
    """
    # With an empty folder and the whole path, no neighbour of the file and no file of that name in
    # the working directory is read in its place.
    with (
        TemporaryDirectory() as empty,
        refusing(f"{file}: reading it with transformers {transformers.__version__}"),
    ):
        where = {"pretrained_model_name_or_path": empty, "gguf_file": str(file.resolve())}
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
        model, found = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    missing = sorted(found["missing_keys"])
    if missing:  # it drew them at random
        raise UnsupportedModel(f"{file}: {len(missing)} weights are missing ({missing[0]})")
    if _file_scales_positions(file) and not _config_scales_positions(model.config):
        log.warning(
            "%s scales its rotary positions, which transformers has not read: as long as "
            "rope_parameters in config.json do not say it, the model answers differently",
            file,
        )
    # Loading dequantised it; what is left of the quantiser would only forbid saving.
    for owner in (model, model.config):
        for name in QUANTISER:
            if hasattr(owner, name):
                delattr(owner, name)
    return model, tokenizer


def _file_scales_positions(file: Path) -> bool:
    with file.open("rb") as opened:
        header = opened.read(GGUF_HEADER_BYTES)
    return any(name in header for name in GGUF_SCALING)


def _config_scales_positions(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]  # one a kind of layer
    return any(one.get("rope_type", "default") != "default" for one in kinds)


def decode_each(tokenizer: Any, rows: Iterable[Sequence[int]]) -> list[str]:
    """The text of each row of ids without special tokens, many at a time."""
    texts: list[str] = tokenizer.backend_tokenizer.decode_batch(
        [list(row) for row in rows], skip_special_tokens=True
    )
    return texts


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Tokens of a fast tokenizer that are left out of decoded text, by id."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return {token_id: token.content for token_id, token in added.items() if token.special}


def tokenizer_json(tokenizer: Any) -> str:
    """A fast tokenizer as the text of its tokenizer.json."""
    text: str = tokenizer.backend_tokenizer.to_str()
    return text

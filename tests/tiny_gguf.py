"""GGUF files of a tiny Llama, as llama.cpp writes them, whole or with something wrong."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from tests.tiny_models import BEGIN_OF_TEXT, END_OF_TEXT, PADDING, tiny_model, tiny_tokenizer

QUANTISED = "mlp.down_proj.weight"
CONTROL, NORMAL = 3, 1


def write_tiny_gguf(
    file: Path,
    model: PreTrainedModel | None = None,
    *,
    architecture: str = "llama",
    vocabulary: str = "gpt2",
    scale_positions: float | None = None,
    leave_out: Collection[str] = (),
) -> Path:
    """Write the tiny Llama: its MLP output projections in Q8_0, everything else in float32.

    Args:
        model: another Llama of the same tokenizer.
        architecture, vocabulary: what the file says that they are.
        scale_positions: by how much rotary positions are divided.
        leave_out: tensors that are not written, by their names in transformers.
    """
    model = model or tiny_model("llama")
    writer = gguf.GGUFWriter(file, architecture)
    _add_config(writer, model.config)
    if scale_positions:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scale_positions)
    _add_tokenizer(writer, vocabulary)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name in leave_out:
            continue
        kind = gguf.GGMLQuantizationType.F32
        data = _as_stored(name, tensor, model.config)
        if name.endswith(QUANTISED):
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(data, kind)
        writer.add_tensor(names.get_name(name, (".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: str) -> None:
    tokenizer = tiny_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = {END_OF_TEXT, PADDING, BEGIN_OF_TEXT}
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model(vocabulary)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)


def _as_stored(name: str, tensor: torch.Tensor, config: Any) -> np.ndarray[Any, Any]:
    """llama.cpp turns neighbouring rows of queries and keys, transformers the halves of a head."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    data: np.ndarray[Any, Any] = tensor.numpy()
    for projection, count in heads.items():
        if projection in name:
            halves = data.reshape(count, 2, -1, data.shape[-1])
            data = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(data.shape))
    return data

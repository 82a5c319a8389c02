"""Tiny models of every supported family: real architectures, random weights; and a tokenizer.

What makes a family different is switched on: windows shorter than the texts of the tests, mixed
with full attention where the family mixes them; capped logits; multipliers that are not 1.

Nothing here touches the network or the global random state. The same name and seed give the same
weights bit for bit, so tests may compare runs and processes with each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

HIDDEN = 32
LAYERS = 4
HEADS = 4
INTERMEDIATE = 64
POSITIONS = 256
VOCABULARY = 512
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
BEGIN_OF_TEXT = "<|begin|>"

# Large enough that greedy continuations wander through the vocabulary instead of repeating a token.
WEIGHT_STD = 0.4
EMBEDDING_STD = 0.2
VECTOR_STD = 0.1  # biases around 0, norm scales around 1

TEXT = """\
The lighthouse keeper at the edge of the bay wrote a letter every evening. She wrote about the
weather, the ships and the birds, and in the morning the postman carried the letters to the town.
Anna Keller was born in Geneva and works as an engineer in Lisbon. The capital of France is Paris,
and the river that runs through the city is the Seine. The boy ran away. He said that he had seen a
fox in the garden, but nobody believed him, because foxes had not been seen there for many years.
Mount Elbrus is located in the Caucasus. The Silent Orchard was written by Martin Okafor, who plays
the violin and speaks Portuguese. In 1931 the company moved its headquarters to Berlin; its founder,
a chemist, had died in Vienna. I think that you are right. You can find the station behind the old
bridge. Therefore the council decided to build a new one. When the music stopped, the children were
still dancing. A small engine produces heat, and heat produces motion. What is the native language
of the author? It is not known whether the painting was ever finished, or who owns it today.
"""


@cache
def _tokenizer_json(text: str, vocabulary: int) -> str:
    """Byte-level BPE trained on a text; training it takes milliseconds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # trim_offsets=False leaves a token's leading space inside its offsets, as in GPT-2's own files
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PADDING, BEGIN_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer.to_str()


def tiny_tokenizer(
    *, begin_of_text: bool = False, text: str = TEXT, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with end-of-text and padding, offsets in characters.

    It is trained on `text` and has at most `vocabulary` tokens.
    With `begin_of_text` every text starts with that token, as Llama's tokenizers do.
    """
    backend = Tokenizer.from_str(_tokenizer_json(text, vocabulary))
    if begin_of_text:
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{BEGIN_OF_TEXT} $A",
                    pair=f"{BEGIN_OF_TEXT} $A {BEGIN_OF_TEXT} $B:1",
                    special_tokens=[(BEGIN_OF_TEXT, backend.token_to_id(BEGIN_OF_TEXT))],
                ),
            ]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        bos_token=BEGIN_OF_TEXT if begin_of_text else None,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Family:
    """How to build a tiny model: its classes, by the prefix they share, and its config's fields."""

    classes: str
    extra: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[str, str, str, str | None, str] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    )
    """What the config calls width, depth, heads, the MLP's width (None: always 4 × hidden) and
    positions."""
    config: str = "Config"
    model: str = "ForCausalLM"
    weight_std: float = WEIGHT_STD


_GPT2_SIZES = ("n_embd", "n_layer", "n_head", "n_inner", "n_positions")
_NEO_SIZES = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_OPT_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "ffn_dim",
    "max_position_embeddings",
)
_FALCON_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "ffn_hidden_size",
    "max_position_embeddings",
)
_BLOOM_SIZES = ("hidden_size", "n_layer", "n_head", None, "seq_length")
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
_GEMMA: dict[str, Any] = {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8}
WINDOW = 8
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_WINDOWS: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "layer_types": MIXED,
}

FAMILIES = {
    "gpt2": Family("GPT2", sizes=_GPT2_SIZES, model="LMHeadModel"),
    "gptj": Family("GPTJ", {"rotary_dim": 4}, _GPT2_SIZES),
    "gpt_neox": Family("GPTNeoX"),
    # its scores are not divided by √d; large ones cost digits in the softmax
    "gpt_neo": Family(
        "GPTNeo",
        {"attention_types": [[["global", "local"], 2]], "window_size": WINDOW},
        _NEO_SIZES,
        weight_std=0.25,
    ),
    "opt": Family("OPT", {"word_embed_proj_dim": HIDDEN}, _OPT_SIZES),
    # As OPT-350M: norms after the residual sums, none at the end, embeddings of another width; as
    # Galactica without the ReLU. Heavier weights would let attention drown each token's own part.
    "opt_projected": Family(
        "OPT",
        {
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
            "activation_function": "gelu",
        },
        _OPT_SIZES,
        weight_std=0.15,
    ),
    "bloom": Family("Bloom", sizes=_BLOOM_SIZES),
    "falcon": Family("Falcon", sizes=_FALCON_SIZES),
    "falcon_new": Family(
        "Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, _FALCON_SIZES
    ),
    "falcon_alibi": Family(
        "Falcon",
        {"alibi": True, "parallel_attn": False, "multi_query": False},
        _FALCON_SIZES,
    ),
    "phi": Family("Phi", _GROUPED),
    "phi3": Family("Phi3", {**_GROUPED, "sliding_window": WINDOW}),
    "llama": Family("Llama", {**_GROUPED, "tie_word_embeddings": False}),
    "llama_tied": Family("Llama", {**_GROUPED, "tie_word_embeddings": True}),
    "llama_square": Family(
        "Llama", {**_GROUPED, "tie_word_embeddings": False, "intermediate_size": HIDDEN}
    ),
    "mistral": Family("Mistral", {**_GROUPED, "sliding_window": WINDOW}),
    "qwen2": Family("Qwen2", {**_GROUPED, **_WINDOWS}),
    "qwen3": Family("Qwen3", {**_GROUPED, **_WINDOWS, "head_dim": 16}),
    "gemma2": Family(
        "Gemma2",
        {
            **_GEMMA,
            "sliding_window": WINDOW,
            "layer_types": MIXED,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma3": Family(
        "Gemma3",
        {**_GEMMA, "sliding_window": WINDOW, "layer_types": MIXED},
        config="TextConfig",
    ),
    "olmo2": Family("Olmo2", _GROUPED),
    "stablelm": Family("StableLm", {**_GROUPED, "use_qkv_bias": True}),
    "stablelm_parallel": Family("StableLm", {**_GROUPED, "use_parallel_residual": True}),
    "granite": Family(
        "Granite",
        {
            **_GROUPED,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.5,
            "logits_scaling": 1.5,
        },
    ),
    # the last block of four is without rotary positions, as in the published models
    "smollm3": Family("SmolLM3", {**_GROUPED, **_WINDOWS}),
}
TINY = tuple(FAMILIES)


def tiny_config(name: str, **changed: Any) -> Any:
    """The config of a tiny model, with some of its fields changed."""
    if name not in FAMILIES:
        raise ValueError(f"no tiny model is called {name!r}; there are {', '.join(TINY)}")
    family = FAMILIES[name]
    tokenizer = tiny_tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    values = (HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS)
    sizes = {k: v for k, v in zip(family.sizes, values, strict=True) if k}
    return getattr(transformers, family.classes + family.config)(
        **sizes | ids | family.extra | changed
    )


def untrained(name: str, **changed: Any) -> PreTrainedModel:
    """A model with the weights that its class starts with; draws from the global generator."""
    config = tiny_config(name, **changed)
    family = FAMILIES[name]
    return getattr(transformers, family.classes + family.model)(config)


def randomise(model: PreTrainedModel, seed: int, weight_std: float = WEIGHT_STD) -> None:
    """Draws every parameter anew, in place: also biases and norm scales, which a fresh model
    leaves at 0 and 1 and where a mistake would not show."""
    generator = torch.Generator().manual_seed(seed)
    tokens = model.get_input_embeddings().weight
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                std = EMBEDDING_STD if parameter is tokens else weight_std
                parameter.copy_(std * noise)
            else:
                parameter.copy_(VECTOR_STD * noise + (not path.endswith("bias")))


def tiny_model(name: str, seed: int = 0, **changed: Any) -> PreTrainedModel:
    """A causal language model of 4 layers, hidden size 32, in float32, ready to generate."""
    with torch.random.fork_rng(devices=[]):  # building a model draws from the global generator
        model = untrained(name, **changed)
    randomise(model, seed, FAMILIES[name].weight_std)
    model.config.use_cache = True
    model.generation_config.do_sample = False
    return model.eval()


def save_tiny(name: str, folder: Path, seed: int = 0) -> Path:
    """Saves model and tokenizer as a Hugging Face folder (safetensors) and returns it."""
    tiny_model(name, seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder

"""Tiny models of every supported family: real architectures, random weights; and a tokenizer.

Nothing here touches the network or the global random state. The same name and seed give the same
weights bit for bit, so tests may compare runs and processes with each other.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

TINY = ("gpt2", "gptj", "gpt_neox", "falcon", "llama", "llama_tied", "llama_square")
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
def _tokenizer_json() -> str:
    """Byte-level BPE trained on the text above; training it takes milliseconds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # trim_offsets=False leaves a token's leading space inside its offsets, as in GPT-2's own files
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, PADDING, BEGIN_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return tokenizer.to_str()


def tiny_tokenizer(*, begin_of_text: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 512 tokens with end-of-text and padding, offsets in characters.

    With `begin_of_text` every text starts with that token, as Llama's tokenizers do.
    """
    backend = Tokenizer.from_str(_tokenizer_json())
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


def _untrained(name: str) -> PreTrainedModel:
    tokenizer = tiny_tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if name == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=HIDDEN,
                n_layer=LAYERS,
                n_head=HEADS,
                n_inner=INTERMEDIATE,
                n_positions=POSITIONS,
                **ids,
            )
        )
    if name == "gptj":
        return GPTJForCausalLM(
            GPTJConfig(
                n_embd=HIDDEN,
                n_layer=LAYERS,
                n_head=HEADS,
                n_inner=INTERMEDIATE,
                n_positions=POSITIONS,
                rotary_dim=4,
                **ids,
            )
        )
    sizes = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
    }
    if name == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=INTERMEDIATE, **sizes, **ids))
    if name == "falcon":
        return FalconForCausalLM(FalconConfig(ffn_hidden_size=INTERMEDIATE, **sizes, **ids))
    if name in ("llama", "llama_tied", "llama_square"):
        return LlamaForCausalLM(
            LlamaConfig(
                num_key_value_heads=2,
                intermediate_size=HIDDEN if name == "llama_square" else INTERMEDIATE,
                tie_word_embeddings=name == "llama_tied",
                **sizes,
                **ids,
            )
        )
    raise ValueError(f"no tiny model is called {name!r}; there are {', '.join(TINY)}")


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Draws every parameter anew, in place: also biases and norm scales, which a fresh model
    leaves at 0 and 1 and where a mistake would not show."""
    generator = torch.Generator().manual_seed(seed)
    tokens = model.get_input_embeddings().weight
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                std = EMBEDDING_STD if parameter is tokens else WEIGHT_STD
                parameter.copy_(std * noise)
            else:
                parameter.copy_(VECTOR_STD * noise + (not path.endswith("bias")))


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A causal language model of 4 layers, hidden size 32, in float32, ready to generate."""
    with torch.random.fork_rng(devices=[]):  # building a model draws from the global generator
        model = _untrained(name)
    randomise(model, seed)
    model.config.use_cache = True
    model.generation_config.do_sample = False
    return model.eval()


def save_tiny(name: str, folder: Path, seed: int = 0) -> Path:
    """Saves model and tokenizer as a Hugging Face folder (safetensors) and returns it."""
    tiny_model(name, seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
